"""Samplers at few steps, each against the formulas of its own paper, solved again in NumPy."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from ldm_project.diffusion.noise_schedulers import build_noise_scheduler, set_denoising_steps
from ldm_project.diffusion.sampling import denoise
from ldm_project.diffusion.seeding import seeded_generator
from tests.fakes import reference_samplers as reference

SHAPE = (2, 1, 12, 12)
MODES = (-0.6, 0.9)  # data are one of these two, ± STD: a velocity that is not linear in latents
STD = 0.2


def expected_data(latents, alpha, sigma):
    """E[data | latents] for a mixture of two equally likely Gaussians, by Bayes' rule."""
    variance = alpha**2 * STD**2 + sigma**2
    exponents = [-((latents - alpha * mode) ** 2) / (2 * variance) for mode in MODES]
    weight = 1 / (1 + np.exp(exponents[1] - exponents[0]))  # of the first
    means = [mode + alpha * STD**2 / variance * (latents - alpha * mode) for mode in MODES]
    return weight * means[0] + (1 - weight) * means[1]


def diffusion_velocity(latents, timestep):
    level = reference.cosine_levels()[timestep]
    data = expected_data(latents, level.alpha, level.sigma)
    noise = (latents - level.alpha * data) / level.sigma
    return level.alpha * noise - level.sigma * data


def flow_velocity(latents, time):
    data = expected_data(latents, 1 - time, time)
    return (latents - data) / time  # noise - data, where latents = (1-t)·data + t·noise


class MixtureUnet(nn.Module):
    """The same prediction where the project expects a network."""

    def __init__(self, is_flow):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))  # a network has a device
        self.is_flow = is_flow

    def forward(self, latents, timesteps):
        values, timestep = latents.double().numpy(), timesteps[0].item()
        if self.is_flow:
            velocity = flow_velocity(values, (timestep + 1) / 1000)
        else:
            velocity = diffusion_velocity(values, timestep)
        return torch.from_numpy(velocity).float()


@pytest.fixture
def noise():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))


def ours(sampler, noise, steps):
    for step in denoise(MixtureUnet(sampler == "rflow"), noise, sampler=sampler, steps=steps):
        latents = step.latents
    return latents.numpy()


def draws_of(noise, steps):
    """What ddpm and dpmpp_sde add: each sample's own numbers, which follow from its first noise."""
    generators = [seeded_generator(sample.numpy().tobytes()) for sample in noise]
    return [
        np.stack([torch.randn(SHAPE[1:], generator=generator).numpy() for generator in generators])
        for _ in range(steps - 1)
    ]


@pytest.mark.parametrize("steps", [50, 20, 10])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp", "dpmpp_sde", "unipc", "rflow"])
def test_sampler_is_its_papers_formula(sampler, steps, noise):
    start = noise.double().numpy()
    if sampler == "rflow":
        expected = reference.rectified_flow(flow_velocity, start, steps)
    elif sampler in ("ddpm", "dpmpp_sde"):
        draws = draws_of(noise, steps)
        expected = getattr(reference, sampler)(diffusion_velocity, start, steps, draws)
    else:
        expected = getattr(reference, sampler)(diffusion_velocity, start, steps)
    np.testing.assert_allclose(ours(sampler, noise, steps), expected, atol=1e-4, rtol=0)


def test_solvers_differ_from_each_other_by_more_than_that(noise):
    start = noise.double().numpy()
    solvers = (reference.ddim, reference.dpmpp, reference.unipc)
    first, second, third = (solve(diffusion_velocity, start, 10) for solve in solvers)
    assert min(abs(first - second).max(), abs(second - third).max()) > 0.01


@pytest.mark.parametrize("steps", [50, 20, 10])
def test_timesteps_and_noise_levels_are_those_of_the_papers(steps):
    scheduler = build_noise_scheduler("unipc")
    set_denoising_steps(scheduler, steps, torch.device("cpu"))
    timesteps = reference.trailing_timesteps(steps)
    assert scheduler.timesteps.tolist() == timesteps
    levels = [reference.cosine_levels()[timestep] for timestep in timesteps]
    ratios = [level.sigma / level.alpha for level in levels]
    np.testing.assert_allclose(scheduler.sigmas[:-1], ratios, rtol=1e-4)


def test_mixture_is_sampled_in_equal_parts():
    noise = torch.randn(1, 1, 60, 60, generator=torch.Generator().manual_seed(4))
    samples = ours("unipc", noise, 50)
    # 3600 draws: the share of a mode is 0.5 ± 3·0.5/√3600 = 0.025
    assert abs((samples < sum(MODES) / 2).mean() - 0.5) < 0.025
    spread = samples[samples < sum(MODES) / 2].std()
    assert math.isclose(spread, STD, abs_tol=0.02)
