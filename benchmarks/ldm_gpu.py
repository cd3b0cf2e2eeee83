"""The GPU part of ``benchmarks.ldm_energy``: measures images and iterations at the paper's sizes.

The networks are untrained, since energy does not depend on weights; voxels are noise.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from generative.inferers import LatentDiffusionInferer
from generative.networks.schedulers import DDPMScheduler
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.ldm_gpu_page import GpuRow, TimeShares, TrainingRow
from benchmarks.ldm_ways import STEPS, Sample, Taken, baseline, measured, ours, wait_for
from ldm_project.diffusion.acceleration import BF16, FP32, autocast, prepared
from ldm_project.diffusion.checkpoints import LdmCheckpoint
from ldm_project.diffusion.diffusion_training import DiffusionTraining, train_diffusion
from ldm_project.diffusion.flops import cost_of, diffusion_iteration_tflop
from ldm_project.diffusion.gpu_sampling import ReplayedUnet
from ldm_project.diffusion.latents import Latents
from ldm_project.diffusion.models import ModelSpec, build_unet, build_vqgan, device_of
from ldm_project.diffusion.sampling import decode_samples
from mlflow_carbon.metering.meter import Meter

T = TypeVar("T")

BASELINE = "monai-generative, fp32"
BASELINE_LEARNING_RATE = 1e-4
NUM_TIMED = 3  # operations to list in a profile


@dataclass(frozen=True)
class Case:
    """A size of the paper, and the batch size of its training."""

    dims: int
    size: tuple[int, ...]
    batch_size: int

    def spec(self, model_size: str) -> ModelSpec:
        """Returns the spec of the networks."""
        return ModelSpec(self.dims, self.size, model_size)


@dataclass(frozen=True)
class SamplingWay:
    """A way of sampling, and the networks that it uses."""

    name: str
    steps: int
    sample: Sample
    ldm: LdmCheckpoint
    precision: str


CASES = (Case(2, (512, 512), 8), Case(3, (64, 64, 64), 4), Case(3, (256, 256, 192), 1))
OUR_STEPS = (STEPS, 30)
NUM_ITERATIONS = 20


def sampling_rows(
    device: torch.device,
    peak_tflop_per_s: float,
    *,
    cases: Sequence[Case] = CASES,
    model_size: str = "medium",
    reference_steps: int = STEPS,
    our_steps: Sequence[int] = OUR_STEPS,
) -> Iterator[GpuRow]:
    """Yields the cost of one image by the baseline and by our ways of sampling."""
    meter = Meter()
    meter.start()
    for case in cases:
        spec = case.spec(model_size)
        cost = cost_of(spec)
        for way in ways_of_sampling(spec, device, reference_steps, our_steps):
            yield GpuRow(
                spec.size,
                model_size,
                way.name,
                way.steps,
                unless_too_large(partial(sampled_once, meter, way)),
                cost.sample_tflop(way.steps),
                peak_tflop_per_s,
            )
    meter.stop()


def sampled_once(meter: Meter, way: SamplingWay) -> tuple[Taken, TimeShares | None]:
    """Returns the cost of one image, and the device's time shares in one denoising step.

    There are none of a recorded step: a profiler sees one operation there.
    """
    step = partial(one_step, way.ldm, way.precision)
    for _ in range(2):  # warms up, as the decoding does; the second step is recorded
        step()
    device = device_of(way.ldm.unet)
    latents = torch.randn(1, *way.ldm.spec.latent_shape, device=device)
    decode_samples(way.ldm.vqgan, latents, way.ldm.latent_scale)
    is_recorded = isinstance(way.ldm.unet, ReplayedUnet)
    shares = None if is_recorded else time_shares(step, device)
    taken, _ = measured(meter, way.sample, range(1))
    return taken, shares


def training_rows(
    device: torch.device,
    peak_tflop_per_s: float,
    *,
    cases: Sequence[Case] = CASES,
    model_size: str = "medium",
    num_iterations: int = NUM_ITERATIONS,
) -> Iterator[TrainingRow]:
    """Yields the cost of one training iteration by the baseline and by our training."""
    meter = Meter()
    meter.start()
    for case in cases:
        spec = case.spec(model_size)
        tflop = diffusion_iteration_tflop(spec, case.batch_size)
        for way, losses in (
            (BASELINE, baseline_training(spec, case.batch_size, device)),
            (f"ours, {BF16}", our_training(spec, case.batch_size, device)),
        ):
            taken = unless_too_large(partial(trained_on, meter, losses, num_iterations))
            yield TrainingRow(
                spec.size, model_size, case.batch_size, way, taken, tflop, peak_tflop_per_s
            )
    meter.stop()


def trained_on(meter: Meter, losses: Iterator[float], num_iterations: int) -> Taken:
    """Returns the mean cost of an iteration over the next ``num_iterations``."""
    iterations = partial(next_losses, losses)
    iterations(range(2))  # warms up
    taken, _ = measured(meter, iterations, range(num_iterations))
    return taken


def unless_too_large(measure: Callable[[], T]) -> T | None:
    """Returns the measurement; ``None`` if the device ran out of memory."""
    try:
        return measure()
    except torch.OutOfMemoryError:
        return None


def ways_of_sampling(
    spec: ModelSpec, device: torch.device, reference_steps: int, our_steps: Sequence[int]
) -> Iterator[SamplingWay]:
    """Yields the baseline and our ways of sampling, ready to sample."""
    ldm = untrained(spec, device, "generative")
    yield SamplingWay(BASELINE, reference_steps, baseline(ldm, reference_steps), ldm, FP32)
    ldm = untrained(spec, device, "core")
    ldm = replace(ldm, unet=prepared(ldm.unet, precision=BF16, is_compiled=False))
    for steps in our_steps:
        sampler = "ddpm" if steps == reference_steps else "unipc"
        sample = ours(ldm, sampler, steps, precision=BF16)
        yield SamplingWay(f"ours, {sampler}", steps, sample, ldm, BF16)


@torch.inference_mode()
def one_step(ldm: LdmCheckpoint, precision: str) -> None:
    """Predicts the noise of one image."""
    device = device_of(ldm.unet)
    latents = torch.randn(1, *ldm.spec.latent_shape, device=device)
    with autocast(device, precision):
        ldm.unet(latents, torch.full((1,), STEPS // 2, device=device))


def next_losses(losses: Iterator[float], iterations: Sequence[int]) -> Tensor:
    """Returns the losses of the next iterations, one for each element of ``iterations``."""
    return torch.tensor([next(losses) for _ in iterations])


def untrained(spec: ModelSpec, device: torch.device, backend: str) -> LdmCheckpoint:
    """Returns an LDM with random weights."""
    networks = (build(spec, backend=backend).to(device) for build in (build_unet, build_vqgan))
    unet, vqgan = (network.eval().requires_grad_(False) for network in networks)
    return LdmCheckpoint(spec=spec, unet=unet, vqgan=vqgan, latent_scale=1.0)


def baseline_training(spec: ModelSpec, batch_size: int, device: torch.device) -> Iterator[float]:
    """Yields the loss of each iteration as monai-generative's tutorials train, in fp32.

    Its inferer encodes the images anew each time.
    """
    unet = build_unet(spec, backend="generative").to(device)
    vqgan = build_vqgan(spec, backend="generative").to(device).eval().requires_grad_(False)
    scheduler = DDPMScheduler(num_train_timesteps=STEPS)
    inferer = LatentDiffusionInferer(scheduler, scale_factor=1.0)
    weights = [weight for weight in unet.parameters() if weight.requires_grad]
    optimiser = torch.optim.Adam(weights, lr=BASELINE_LEARNING_RATE)
    images = torch.rand(batch_size, 1, *spec.size, device=device) * 2 - 1
    while True:
        noise = torch.randn(batch_size, *spec.latent_shape, device=device)
        timesteps = torch.randint(STEPS, (batch_size,), device=device)
        optimiser.zero_grad(set_to_none=True)
        predicted = inferer(
            inputs=images,
            autoencoder_model=vqgan,
            diffusion_model=unet,
            noise=noise,
            timesteps=timesteps,
        )
        loss = F.mse_loss(predicted, noise)
        torch.autograd.backward(loss)
        optimiser.step()
        yield loss.item()


def our_training(spec: ModelSpec, batch_size: int, device: torch.device) -> Iterator[float]:
    """Yields the loss of each iteration of our training, on latents encoded beforehand."""
    training = DiffusionTraining(build_unet(spec).to(device), iterations=STEPS, precision=BF16)
    latents = Latents(torch.randn(2 * batch_size, *spec.latent_shape), scale=1.0)
    for step in train_diffusion(training, latents, batch_size=batch_size, seed=0):
        yield step.loss


def time_shares(compute: Callable[[], object], device: torch.device) -> TimeShares:
    """Returns the fraction of time that a device is busy during ``compute``, and its operations."""
    is_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]
    compute()  # warms up: the first call takes longer
    wait_for(device)
    start_s = time.perf_counter()  # without the profiler, which slows the host down
    compute()
    wait_for(device)
    wall_us = (time.perf_counter() - start_s) * 1e6
    with profile(activities=activities) as profiler:
        compute()
        wait_for(device)
    time_of = "self_device_time_total" if is_gpu else "self_cpu_time_total"
    # An operation has the time of its kernels, which are listed beside it once more.
    times_us = {
        event.key.removeprefix("aten::"): getattr(event, time_of)
        for event in profiler.key_averages()
        if event.device_type == DeviceType.CPU
    }
    busy_us = sum(times_us.values())
    longest = sorted(times_us, key=times_us.__getitem__, reverse=True)[:NUM_TIMED]
    return TimeShares(
        busy_fraction=min(1.0, busy_us / wall_us),
        longest=tuple((name, times_us[name] / busy_us) for name in longest),
    )


def reached_in_multiplication(
    device: torch.device, *, edge: int = 8192, num: int = 20, at_least_s: float = 1.0
) -> float:
    """Returns the TFLOP/s that a device reaches in bf16 when it only multiplies matrices.

    Args:
        device: that multiplies.
        edge: of the square matrices.
        num: of multiplications before the device is waited for.
        at_least_s: for how long, since a chip that is warm is slower.
    """
    matrix = torch.randn(edge, edge, device=device, dtype=torch.bfloat16)
    matrix @ matrix
    wait_for(device)
    start_s, duration_s, num_done = time.perf_counter(), 0.0, 0
    while duration_s < at_least_s:
        for _ in range(num):
            matrix @ matrix
        wait_for(device)
        num_done += num
        duration_s = time.perf_counter() - start_s
    return num_done * 2 * edge**3 / duration_s / 1e12
