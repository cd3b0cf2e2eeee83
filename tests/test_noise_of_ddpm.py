"""A stochastic solver that adds ddpm's noise arrives where ddpm at all steps arrives."""

import pytest
import torch

from ldm_project.diffusion.noise_schedulers import signal_to_noise_ratios
from ldm_project.diffusion.sampling import denoise, initial_noise, noise_of_ddpm
from tests.fakes.random_networks import SPECS, random_unet


def last_latents(dims, sampler, steps, num_images=2, **settings):
    noise = initial_noise(SPECS[dims], range(num_images), seed=0)
    *_, last = denoise(random_unet(SPECS[dims]), noise, sampler=sampler, steps=steps, **settings)
    return last.latents


def distance(first, second):
    return float((first - second).norm() / second.norm())


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_the_more_steps_the_nearer_to_ddpm_at_all_steps(dims):
    ddpm = last_latents(dims, "ddpm", 1000)
    near = {
        steps: distance(last_latents(dims, "dpmpp_sde", steps, has_noise_of_ddpm=True), ddpm)
        for steps in (10, 50, 250)
    }
    assert near[250] < near[50] / 2 < near[10] / 4
    assert near[250] < 0.02
    assert distance(last_latents(dims, "dpmpp_sde", 250), ddpm) > 20 * near[250]


def test_noise_is_that_of_each_sample_alone():
    settings = {"sampler": "dpmpp_sde", "steps": 7, "has_noise_of_ddpm": True}
    three = last_latents(2, num_images=3, **settings)
    torch.testing.assert_close(three[:2], last_latents(2, num_images=2, **settings))


@pytest.mark.parametrize("timesteps", [[999, 700, 650, 3], [800, 400]])
def test_noise_has_std_1_and_that_of_steps_is_independent(timesteps):
    first = torch.randn(8, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    *added, last = noise_of_ddpm(timesteps, signal_to_noise_ratios(), first)
    assert len(added) == len(timesteps) - 1
    assert not last.any()  # the step to timestep 0 adds none
    stacked = torch.stack([first, *added]).flatten(1)
    expected = torch.eye(len(stacked))
    torch.testing.assert_close(torch.corrcoef(stacked), expected, atol=0.02, rtol=0)
    torch.testing.assert_close(stacked.std(1), torch.ones(len(stacked)), atol=0.02, rtol=0)


def test_samplers_without_noise_are_as_they_were():
    plain, shared = (
        last_latents(2, "unipc", 5, has_noise_of_ddpm=has_noise) for has_noise in (False, True)
    )
    torch.testing.assert_close(plain, shared, rtol=0, atol=0)
