"""Samplers: right against a Gaussian with a known answer, at any number of steps, in any batch."""

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import nn

from ldm_project.config import SAMPLERS
from ldm_project.diffusion.autoencoders import decode
from ldm_project.diffusion.models import ModelSpec, build_unet, build_vqgan
from ldm_project.diffusion.noise_schedulers import (
    NOISE_SCHEDULE,
    build_noise_scheduler,
    check_sampler,
    flowed,
    noised,
    set_denoising_steps,
)
from ldm_project.diffusion.sampling import decode_samples, denoise, initial_noise
from ldm_project.errors import InvalidInputError

DATA_MEAN, DATA_STD = 0.3, 0.5
SPECS = {2: ModelSpec(2, (64, 64), "tiny"), 3: ModelSpec(3, (32, 32, 32), "tiny")}


class GaussianUnet(nn.Module):
    """The best possible prediction for data N(0.3, 0.5²), which is known in closed form.

    With a = the kept share of variance and x = √a·x0 + √(1-a)·e, both x0 and e are jointly
    normal with x, so E[x0|x] and E[e|x] are linear in x; the velocity is √a·e - √(1-a)·x0.
    """

    def __init__(self, alphas_cumprod, prediction="velocity"):
        super().__init__()
        self.alphas_cumprod = nn.Parameter(alphas_cumprod, requires_grad=False)
        self.prediction = prediction

    def forward(self, latents, timesteps):
        a = self.alphas_cumprod[timesteps].view(-1, *[1] * (latents.ndim - 1))
        surprise = (latents - a.sqrt() * DATA_MEAN) / (a * DATA_STD**2 + 1 - a)
        noise = (1 - a).sqrt() * surprise
        if self.prediction == "noise":
            return noise
        data = DATA_MEAN + a.sqrt() * DATA_STD**2 * surprise
        return a.sqrt() * noise - (1 - a).sqrt() * data


class GaussianFlow(nn.Module):
    """The best possible rectified flow for the same data.

    With t = the share of noise and x = (1-t)·x0 + t·e, e - x0 and x are jointly normal too:
    cov(e - x0, x) = t - (1-t)·0.5² and var(x) = (1-t)²·0.5² + t².
    """

    def __init__(self):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))  # a network has a device

    def forward(self, latents, timesteps):
        t = ((timesteps + 1) / 1000).view(-1, *[1] * (latents.ndim - 1))
        share = (t - (1 - t) * DATA_STD**2) / ((1 - t) ** 2 * DATA_STD**2 + t**2)
        return -DATA_MEAN + share * (latents - (1 - t) * DATA_MEAN)


class InOnePlace(nn.Module):
    """Writes every prediction of a network into the same memory, as CUDA graphs do."""

    def __init__(self, unet):
        super().__init__()
        self.unet = unet
        self.prediction = None

    def forward(self, latents, timesteps):
        prediction = self.unet(latents, timesteps)
        if self.prediction is None:
            self.prediction = torch.empty_like(prediction)
        return self.prediction.copy_(prediction)


def gaussian_unet(sampler="ddpm"):
    if sampler == "rflow":
        return GaussianFlow()
    return GaussianUnet(DDPMScheduler(**NOISE_SCHEDULE).alphas_cumprod)


def gaussian_noise():
    # 40,000 numbers: their std is known to 0.5/√80,000 = 0.002.
    return torch.randn(4, 1, 100, 100, generator=torch.Generator().manual_seed(0))


def last(steps):
    for step in steps:
        latents = step.latents
    return latents


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1000, 200])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampler_reaches_the_known_gaussian(sampler, steps):
    samples = last(denoise(gaussian_unet(sampler), gaussian_noise(), sampler=sampler, steps=steps))
    assert abs(samples.std().item() - DATA_STD) < 0.03
    assert abs(samples.mean().item() - DATA_MEAN) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("package", ["monai", "generative"])
def test_ddpm_of_either_monai_misses_the_gaussian_below_its_trained_steps(package):
    if package == "monai":
        from monai.networks.schedulers import DDPMScheduler as MonaiScheduler
    else:
        from generative.networks.schedulers import DDPMScheduler as MonaiScheduler
    errors = {}
    for steps in (1000, 200):
        scheduler = MonaiScheduler(
            num_train_timesteps=1000,
            schedule="scaled_linear_beta",
            beta_start=0.0015,
            beta_end=0.0195,
            clip_sample=False,
        )
        unet = GaussianUnet(scheduler.alphas_cumprod, prediction="noise")
        scheduler.set_timesteps(steps)
        latents, generator = gaussian_noise(), torch.Generator().manual_seed(1)
        for timestep in scheduler.timesteps:
            predicted = unet(latents, timestep.expand(len(latents)))
            latents, _ = scheduler.step(predicted, timestep, latents, generator=generator)
        errors[steps] = abs(latents.std().item() - DATA_STD)
    assert errors[1000] < 0.03
    assert errors[200] > 0.2  # 0.79 instead of 0.5: why we drive diffusers' schedulers


def test_ddim_is_diffusers_ddim_where_steps_divide_the_trained_ones():
    unet, noise = gaussian_unet(), gaussian_noise()
    reference = DDIMScheduler(clip_sample=False, **NOISE_SCHEDULE)
    reference.set_timesteps(50)
    latents = noise
    for timestep in reference.timesteps:
        predicted = unet(latents, timestep.expand(len(latents)))
        latents = reference.step(predicted, timestep, latents).prev_sample
    ours = last(denoise(unet, noise, sampler="ddim", steps=50))
    torch.testing.assert_close(ours, latents, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sampler", ["dpmpp", "unipc"])
def test_fast_sampler_needs_few_steps(sampler):
    samples = last(denoise(gaussian_unet(), gaussian_noise(), sampler=sampler, steps=20))
    assert abs(samples.std().item() - DATA_STD) < 0.01


def test_stochastic_solver_of_order_two_needs_fewer_steps_than_ddpm():
    errors = {
        sampler: abs(last(denoise(unet, noise, sampler=sampler, steps=20)).std().item() - DATA_STD)
        for unet, noise in [(gaussian_unet(), gaussian_noise())]
        for sampler in ("dpmpp_sde", "ddpm")
    }
    assert errors["dpmpp_sde"] < 0.02 < errors["ddpm"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_number_of_steps_walks_down_that_many_timesteps(sampler):
    scheduler = build_noise_scheduler(sampler)
    for steps in range(1, 1001):
        set_denoising_steps(scheduler, steps, torch.device("cpu"))
        timesteps = scheduler.timesteps
        assert len(timesteps) == steps
        assert timesteps[0] == 999  # trailing: from noise alone
        assert timesteps[-1] >= 0
        assert steps == 1 or (timesteps.diff() < 0).all()
        if sampler not in (
            "ddpm",
            "rflow",
        ):  # the others keep noise levels too: one per step, then none
            assert len(scheduler.sigmas) == steps + 1
            assert scheduler.sigmas[-1] == 0 < scheduler.sigmas[-2]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [61, 201])  # diffusers lists one timestep too many for these
def test_awkward_number_of_steps_samples_as_well_as_its_neighbour(sampler, steps):
    unet, noise = gaussian_unet(sampler), gaussian_noise()
    samples = last(denoise(unet, noise, sampler=sampler, steps=steps))
    neighbour = last(denoise(unet, noise, sampler=sampler, steps=steps - 1))
    assert abs(samples.std().item() - neighbour.std().item()) < 0.003


def test_flowing_latents_are_between_data_and_noise_in_a_straight_line():
    clean, noise = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    latents, velocity = flowed(clean, noise, torch.tensor([999, 499, 249]))
    torch.testing.assert_close(latents[0], noise[0])  # timestep 999: noise alone
    torch.testing.assert_close(latents[1], (clean[1] + noise[1]) / 2)
    # a quarter of the way along the velocity leads back to data
    torch.testing.assert_close(latents[2] - 0.25 * velocity[2], clean[2])


@pytest.mark.parametrize(("sampler", "objective"), [("unipc", "rflow"), ("rflow", "diffusion")])
def test_sampler_of_the_other_objective_is_refused(sampler, objective):
    with pytest.raises(InvalidInputError, match=f"trained with objective={objective}; use one of"):
        check_sampler(sampler, objective)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_predictions_that_are_written_over_change_no_sample(sampler):
    unet = gaussian_unet(sampler)
    expected = last(denoise(unet, gaussian_noise(), sampler=sampler, steps=10))
    found = last(denoise(InOnePlace(unet), gaussian_noise(), sampler=sampler, steps=10))
    assert torch.equal(found, expected)


def test_bf16_changes_a_sample_by_its_rounding_only():
    spec = SPECS[2]
    torch.manual_seed(0)
    unet = build_unet(spec).eval()
    nn.init.normal_(unet.out[2].conv.weight, std=0.1)
    noise = initial_noise(spec, [0], seed=5)
    exact, rounded = (
        last(denoise(unet, noise, sampler="unipc", steps=5, precision=precision))
        for precision in ("fp32", "bf16")
    )
    assert rounded.dtype == torch.float32
    difference = (rounded - exact).abs().mean() / exact.std()
    assert 0 < difference < 2**-6  # bf16 keeps 8 bits


def test_noised_latents_and_velocities_are_what_the_samplers_assume():
    clean, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    timesteps = torch.tensor([10, 800])
    reference = DDPMScheduler(**NOISE_SCHEDULE)
    noisy, velocity = noised(clean, noise, timesteps)
    torch.testing.assert_close(noisy, reference.add_noise(clean, noise, timesteps))
    torch.testing.assert_close(velocity, reference.get_velocity(clean, noise, timesteps))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("dims", [2, 3])
def test_samples_do_not_depend_on_the_batch_they_are_made_in(dims, sampler):
    spec = SPECS[dims]
    torch.manual_seed(0)
    unet = build_unet(spec).eval()
    nn.init.normal_(unet.out[2].conv.weight, std=0.1)  # MONAI starts it at zero

    def sample(indices):
        return last(denoise(unet, initial_noise(spec, indices, seed=5), sampler=sampler, steps=3))

    together = sample(range(8))
    by_three = torch.cat([sample(range(0, 3)), sample(range(3, 6)), sample(range(6, 8))])
    alone = torch.cat([sample([index]) for index in range(8)])
    torch.testing.assert_close(by_three, together, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(alone, together, rtol=1e-3, atol=1e-3)


def test_noise_differs_between_indices_and_seeds():
    noise = initial_noise(SPECS[2], [0, 1, 0], seed=0)
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[1], initial_noise(SPECS[2], [0], seed=1)[0])


def test_noise_is_standard_normal():
    noise = initial_noise(SPECS[2], range(64), seed=0)  # 65,536 numbers: mean ± 0.004
    assert abs(noise.mean().item()) < 0.02
    assert abs(noise.std().item() - 1) < 0.02


def test_steps_are_counted_from_one():
    noise = initial_noise(SPECS[2], [0], seed=0)
    steps = list(denoise(gaussian_unet(), noise, sampler="ddim", steps=3))
    assert [(step.step, step.num_steps) for step in steps] == [(1, 3), (2, 3), (3, 3)]


def test_denoising_leaves_no_inference_mode_behind_between_steps():
    noise = initial_noise(SPECS[2], [0], seed=0)
    next(denoise(gaussian_unet(), noise, sampler="ddim", steps=3))
    assert not torch.is_inference_mode_enabled()


def test_samples_are_decoded_at_their_own_scale():
    vqgan = build_vqgan(SPECS[2]).eval()
    latents = initial_noise(SPECS[2], [0], seed=0)
    with torch.inference_mode():
        torch.testing.assert_close(
            decode_samples(vqgan, latents, 0.25), decode(vqgan, 0.25 * latents)
        )


def test_unknown_sampler_is_refused():
    noise = initial_noise(SPECS[2], [0], seed=0)
    with pytest.raises(InvalidInputError, match="sampler is 'euler'; use one of ddpm, ddim"):
        next(denoise(gaussian_unet(), noise, sampler="euler", steps=2))


@pytest.mark.parametrize("steps", [0, 1001])
def test_number_of_steps_outside_the_trained_ones_is_refused(steps):
    noise = initial_noise(SPECS[2], [0], seed=0)
    with pytest.raises(InvalidInputError, match=f"steps is {steps}; give 1 to 1000"):
        next(denoise(gaussian_unet(), noise, sampler="ddim", steps=steps))
