"""Imaginary patients: alike for a seed, unlike for others, with vessels as blood needs them."""

import numpy as np

from ldm_project.ct.patients import NUM_RIBS, RIB_POINTS, VESSEL_GENERATIONS, draw_patient


def test_vessels_divide_again_and_again_by_murrays_law():
    """The cubes of two children's radii add up to their parent's."""
    vessels = draw_patient(0).vessels
    # 2 + 4 + … + 2^g children of each of two lungs
    assert len(vessels.starts) == 2 * (2 ** (VESSEL_GENERATIONS + 1) - 2)
    num_checked = 0
    for end, radius in zip(vessels.ends, vessels.end_radii, strict=True):
        is_child = (vessels.starts == end).all(axis=1)
        if is_child.any():
            assert is_child.sum() == 2
            np.testing.assert_allclose((vessels.end_radii[is_child] ** 3).sum(), radius**3)
            num_checked += 1
    assert num_checked == 2 * (2**VESSEL_GENERATIONS - 2)


def test_vessels_stay_in_their_lung():
    patient = draw_patient(3)
    offsets = np.abs(patient.vessels.ends) - [patient.lung_x, 0.0, 0.0]
    inside = np.square(offsets / patient.lung).sum(axis=1) < 1
    assert inside.mean() > 0.95  # the first may lie at the hilum


def test_ribs_are_tubes_that_fall_towards_the_front():
    ribs = draw_patient(0).ribs
    assert len(ribs.starts) == 2 * NUM_RIBS * (RIB_POINTS - 1)
    assert (ribs.ends[:, 2] < ribs.starts[:, 2]).all()


def test_patients_differ_in_every_size():
    patients = [draw_patient(seed) for seed in range(20)]
    for name in ("fat_thickness", "lung_x", "spine_radius", "lung_hu", "blood_hu"):
        assert len({getattr(patient, name) for patient in patients}) == 20
