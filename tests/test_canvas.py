"""Solids on a canvas: covered shares add up to volumes, edges are as wide as a voxel."""

import numpy as np
import pytest

from ldm_project.ct.canvas import Canvas, joined, tube


def canvas(length=40):
    axis = (np.arange(length) + 0.5) / length * 2 - 1
    return Canvas((axis, axis, axis), voxel=2 / length, background=-1000.0)


def volume(share):
    """Returns the covered volume, in units where the whole canvas has 8."""
    return share.sum() * 8 / share.size


def test_shares_of_an_ellipsoid_add_up_to_its_volume():
    # 4/3·π·a·b·c
    share = canvas().ellipsoid((0.1, 0.0, -0.05), (0.5, 0.4, 0.6))
    assert volume(share) == pytest.approx(4 / 3 * np.pi * 0.5 * 0.4 * 0.6, rel=0.01)
    assert 0 < ((share > 0) & (share < 1)).mean() < 0.1  # soft at the edge only


def test_two_radii_make_a_cylinder_over_the_whole_height():
    # π·a·b·2
    share = canvas().ellipsoid((0, 0, 0), (0.5, 0.3))
    assert volume(np.broadcast_to(share, (40, 40, 40))) == pytest.approx(np.pi * 0.15 * 2, rel=0.01)


def test_shares_of_a_tube_add_up_to_its_volume():
    # a cylinder π·r²·l and a ball 4/3·π·r³ at its two ends
    share = canvas().tubes(tube([(-0.4, 0, 0), (0.4, 0, 0)], [0.2, 0.2]))
    assert volume(share) == pytest.approx(np.pi * 0.04 * 0.8 + 4 / 3 * np.pi * 0.008, rel=0.02)


def test_tube_thinner_than_a_voxel_is_fainter_and_not_gone():
    share = canvas().tubes(tube([(-0.4, 0.02, 0.02), (0.4, 0.02, 0.02)], [0.01, 0.01]))
    assert 0.3 < share.max() < 1.0


def test_tubes_outside_the_canvas_leave_it_as_it_is():
    away = tube([(3.0, 0, 0), (4.0, 0, 0)], [0.2, 0.2])
    here = tube([(0, 0, 0), (0.5, 0, 0)], [0.2, 0.2])
    assert canvas().tubes(away).max() == 0.0
    np.testing.assert_array_equal(canvas().tubes(joined([away, here])), canvas().tubes(here))


def test_painting_mixes_by_share_and_moving_moves_what_comes_after():
    drawn = canvas()
    drawn.move(0.5, 0.0)
    drawn.fill(drawn.ellipsoid((0, 0, 0), (0.2, 0.2, 0.2)), 100.0)
    is_inside = drawn.image == 100.0
    assert np.argwhere(is_inside).mean(axis=0) == pytest.approx([29.5, 19.5, 19.5])  # 0.5 is 10
    is_edge = (drawn.image > -1000.0) & ~is_inside
    assert drawn.image[is_edge].max() < 100.0
