"""The second judge: what it learns from real images, and how it sees volumes."""

import numpy as np
import pytest
import torch

from ldm_project.ct.data import DataSpec, open_scans
from ldm_project.diffusion import second_judge
from ldm_project.diffusion.seeding import seeded_generator

SIZES = [(32, 32), (16, 16, 16)]


def phantoms(size, *, seed, num):
    return torch.stack(list(open_scans(DataSpec("phantom", size, seed=seed)).images(0)))[:num]


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_network_learns_to_tell_what_was_done_to_images_of_other_patients(size):
    training, held_out = phantoms(size, seed=0, num=64), phantoms(size, seed=1, num=16)
    learnt = second_judge.train_second_judge(training, held_out, iterations=60)
    nothing = second_judge.train_second_judge(training, held_out, iterations=0)
    assert learnt.accuracy_fraction > 0.35  # by chance one of eight: 0.125
    assert nothing.accuracy_fraction < 0.25
    features = learnt.features(held_out)
    num_planes, num_slices = {2: (1, 1), 3: (3, 4)}[len(size)]
    assert features.shape == (16, num_planes, num_slices, second_judge.NUM_FEATURES)


@pytest.mark.slow
def test_network_of_the_same_images_is_the_same():
    images = phantoms((32, 32), seed=0, num=16)
    first, second = (
        second_judge.train_second_judge(images, images, iterations=3).features(images)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_training_leaves_the_seed_of_others_alone():
    images = phantoms((32, 32), seed=0, num=16)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    second_judge.train_second_judge(images, images, iterations=1)
    assert torch.equal(torch.rand(3), expected)


def test_planes_of_a_volume_are_slices_across_each_axis():
    volume = torch.arange(16.0**3).view(1, 1, 16, 16, 16)
    across_x, across_y, across_z = second_judge.planes_of(volume)
    assert across_x.shape == across_y.shape == across_z.shape == (1, 4, 1, 16, 16)
    # The middle half of 16 is 4 to 11.
    assert torch.equal(across_x[0, 0, 0], volume[0, 0, 4])
    assert torch.equal(across_y[0, 3, 0], volume[0, 0, :, 11])
    assert torch.equal(across_z[0, 0, 0], volume[0, 0, :, :, 4])


@pytest.mark.slow
@pytest.mark.parametrize("change", second_judge.CHANGES)
def test_changes_keep_images_images(change):
    images = phantoms((32, 32), seed=0, num=4)
    changed = change(images, seeded_generator(b"test"))
    assert changed.shape == images.shape
    assert changed.min() >= -1 - 1e-5
    assert changed.max() <= 1 + 1e-5
    assert torch.equal(changed, images) == (change is second_judge.CHANGES[0])


def test_blur_takes_the_fine_structure_and_keeps_the_mean():
    images = torch.zeros(2, 1, 32, 32)
    images[..., 16, 16] = 1.0
    blurred = second_judge.CHANGES[5](images, seeded_generator(b"test"))
    assert blurred.sum(dim=(1, 2, 3)).tolist() == pytest.approx([1.0, 1.0])
    assert blurred.max() < 0.7
