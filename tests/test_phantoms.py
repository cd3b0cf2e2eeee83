"""Phantoms look like chest CT: the right tissues, every patient different, the same each time."""

import pytest
import torch

from ldm_project.ct.phantoms import NOISE_HU, NOISE_PIXELS, phantom_hu

SIZES = [(64, 64), (32, 32, 32)]


@pytest.mark.parametrize("size", SIZES)
def test_phantom_holds_air_lung_fat_muscle_and_bone(size):
    hu = phantom_hu(size, seed=0)
    assert hu.shape == (1, *size)
    shares = {
        "air": ((hu < -950).float().mean(), 0.2, 0.7),
        "lung": (((hu > -900) & (hu < -750)).float().mean(), 0.04, 0.4),
        "soft tissue": (((hu > 0) & (hu < 120)).float().mean(), 0.1, 0.6),
        "fat": (((hu > -150) & (hu < -50)).float().mean(), 0.01, 0.4),
        "bone": ((hu > 200).float().mean(), 0.002, 0.1),
    }
    for tissue, (share, least, most) in shares.items():
        assert least < share < most, tissue


@pytest.mark.parametrize("size", SIZES)
def test_phantom_is_its_seed(size):
    assert torch.equal(phantom_hu(size, seed=1), phantom_hu(size, seed=1))
    assert not torch.equal(phantom_hu(size, seed=1), phantom_hu(size, seed=2))


def test_epochs_cut_a_patient_at_other_heights_and_leave_volumes_alone():
    assert not torch.equal(phantom_hu((64, 64), seed=1), phantom_hu((64, 64), seed=1, epoch=1))
    volume = phantom_hu((32, 32, 32), seed=1)
    assert torch.equal(volume, phantom_hu((32, 32, 32), seed=1, epoch=1))


@pytest.mark.slow
def test_heart_lies_to_the_patients_left():
    # In RAS x grows to the right, so the heart's blood is at low x; averaged over patients.
    hu = torch.stack([phantom_hu((64, 64), seed=seed)[0] for seed in range(40)])
    is_blood = (hu > 130) & (hu < 200)
    x = torch.arange(64).view(1, 64, 1).expand_as(hu)
    assert x[is_blood].float().mean() < 31.5


@pytest.mark.parametrize("size", SIZES)
def test_edges_are_soft(size):
    """Voxels at the edge of a lung hold some of both tissues: in between in HU, and not rare."""
    hu = phantom_hu(size, seed=0)
    share = ((hu > -700) & (hu < -200)).float().mean()
    assert 0.01 < share < 0.25


def test_noise_is_less_in_wider_pixels_and_strongest_in_the_middle_of_the_spectrum():
    size, corner = 256, 48
    hu = phantom_hu((size, size), seed=0)[0]
    air = hu[:corner, -corner:]
    assert air.mean().item() == pytest.approx(-1000, abs=2)
    assert air.std().item() == pytest.approx(NOISE_HU * size / NOISE_PIXELS, rel=0.1)
    power = torch.fft.fft2(air - air.mean()).abs().square()
    frequency = torch.fft.fftfreq(corner)
    radius = torch.hypot(frequency[:, None], frequency[None, :])
    low, middle, high = (
        power[(radius > low) & (radius < low + 0.08)].mean() for low in (0.005, 0.16, 0.42)
    )
    assert middle > 2 * low
    assert middle > 2 * high


def test_ribs_are_round_in_volumes():
    """Cut from the side, ribs are rows of spots with muscle between, not walls of bone."""
    hu = phantom_hu((64, 64, 64), seed=0)[0]
    side = hu[:, 30:40].amax(dim=(0, 1))  # the brightest voxel at each height
    is_bone = side > 300
    assert (is_bone[1:] != is_bone[:-1]).sum() >= 8
