"""Writes docs/ldm_energy.md: what an image costs the way most people sample it, and by ours.

Run it as ``python -m benchmarks.ldm_energy``: about half an hour on 2 CPU cores. It trains tiny
models, until equal quality means something, and takes all ways of sampling in turns, so that what
else a machine does meets them alike.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.ldm_energy_page import GpuRow, Report, Way, page
from ldm_project.config import DEFAULT_PUE, QualityConfig, TrainConfig
from ldm_project.diffusion.acceleration import prepared
from ldm_project.diffusion.checkpoints import LdmCheckpoint, load_ldm
from ldm_project.diffusion.flops import cost_of
from ldm_project.diffusion.iso_quality import Setting, iso_quality
from ldm_project.diffusion.models import ModelSpec, build_unet, build_vqgan
from ldm_project.diffusion.noise_schedulers import build_noise_scheduler
from ldm_project.diffusion.quality import Features, features_of_encoder, image_set, judge
from ldm_project.diffusion.sampling import decode_samples, denoise, initial_noise
from ldm_project.runs.commands import run_command
from ldm_project.runs.quality_run import RealImages, real_images
from ldm_project.runs.references import find_model
from mlflow_carbon.accounting.emissions import co2e_g
from mlflow_carbon.metering.meter import Meter, MeterSettings
from mlflow_carbon.units import joules_from_kwh

PAGE = Path(__file__).parent.parent / "docs" / "ldm_energy.md"
NUM_ROUNDS = 8
BATCH_SIZE = 16
# Of VQ-GAN and UNet, by dimension. At the project's quick defaults the 2D VQ-GAN's own error hides
# what samplers and steps differ by.
ITERATIONS = {2: (1400, 2000), 3: (1400, 1500)}
STEPS = 1000  # of the baseline
GRID = (("unipc", 50), ("unipc", 20), ("unipc", 10), ("dpmpp", 20), ("dpmpp", 10), ("ddim", 50))
EU27_G_PER_KWH = 251.0  # 2022; paper, table 1
GPU_SIZES = ((2, (512, 512)), (3, (64, 64, 64)), (3, (256, 256, 192)))
GPU_STEPS = (1000, 30)

Sample = Callable[[Sequence[int]], Tensor]  # global indices to images (B, 1, *S) in [-1, 1]


@dataclass(frozen=True)
class Taken:
    """What one image took in one round."""

    wall_s: float
    cpu_s: float
    energy_joules: float | None


def trained(dims: int) -> tuple[LdmCheckpoint, LdmCheckpoint]:
    """Returns a tiny LDM, by MONAI core and by monai-generative from the same weights."""
    vqgan_iterations, iterations = ITERATIONS[dims]
    config = TrainConfig(
        dims=dims, vqgan_iterations=vqgan_iterations, iterations=iterations, device="cpu"
    )
    found = find_model("auto", "ldm", config, data_digest=None)
    if found is None:
        run_command(config)
        found = find_model("auto", "ldm", config, data_digest=None)
    assert found is not None  # trained above
    core, generative = (
        load_ldm(found.checkpoint, backend=backend, device="cpu")
        for backend in ("core", "generative")
    )
    return core, generative


def baseline(ldm: LdmCheckpoint) -> Sample:
    """Returns monai-generative's inferer at 1000 steps; it samples what it is given at once.

    It gets the noise schedule that the model was trained with, which it does not have by name.
    """
    from generative.inferers import LatentDiffusionInferer
    from generative.networks.schedulers import DDPMScheduler
    from generative.networks.schedulers.scheduler import NoiseSchedules

    betas = build_noise_scheduler("ddpm").betas
    if "as_trained" not in NoiseSchedules:
        NoiseSchedules.add(
            "as_trained",
            "of the trained model",
            lambda num_train_timesteps: betas[:num_train_timesteps],
        )
    scheduler = DDPMScheduler(
        num_train_timesteps=STEPS,
        schedule="as_trained",
        prediction_type="v_prediction",
        clip_sample=False,
    )
    scheduler.set_timesteps(STEPS)
    inferer = LatentDiffusionInferer(scheduler, scale_factor=1 / ldm.latent_scale)

    @torch.no_grad()
    def sample(indices: Sequence[int]) -> Tensor:
        noise = initial_noise(ldm.spec, indices, seed=0)
        return inferer.sample(noise, ldm.vqgan, ldm.unet, verbose=False).clamp(-1, 1)

    return sample


def ours(ldm: LdmCheckpoint, sampler: str, steps: int, *, precision: str) -> Sample:
    """Returns this project's sampling at one setting."""

    def sample(indices: Sequence[int]) -> Tensor:
        noise = initial_noise(ldm.spec, indices, seed=0)
        for step in denoise(ldm.unet, noise, sampler=sampler, steps=steps, precision=precision):
            latents = step.latents
        return decode_samples(ldm.vqgan, latents, ldm.latent_scale)

    return sample


def measured(meter: Meter, sample: Sample, indices: Sequence[int]) -> tuple[Taken, Tensor]:
    """Returns what each of these images took, and the images."""
    window, cpu_s, wall_s = meter.open_window(), time.process_time(), time.perf_counter()
    images = sample(indices)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    energy_kwh = meter.close_window(window).energy_kwh
    energy = None if energy_kwh is None else joules_from_kwh(energy_kwh) / len(indices)
    return Taken(wall_s / len(indices), cpu_s / len(indices), energy), images


def medians(rounds: Sequence[Taken]) -> Taken:
    """Returns the median of each figure over the rounds."""
    energies = [taken.energy_joules for taken in rounds if taken.energy_joules is not None]
    return Taken(
        wall_s=statistics.median(taken.wall_s for taken in rounds),
        cpu_s=statistics.median(taken.cpu_s for taken in rounds),
        energy_joules=statistics.median(energies) if energies else None,
    )


def compared(dims: int, *, num_rounds: int, batch_size: int) -> Report:
    """Returns the baseline, the same steps by ours, and every setting of the grid, judged."""
    core, generative = trained(dims)
    precision = "bf16" if torch.cpu.get_capabilities().get("avx512_bf16") else "fp32"
    named: dict[str, tuple[Sample, int]] = {"a": (baseline(generative), 1)}
    settings = (("ddpm", STEPS), *GRID)
    for sampler, steps in settings:
        sample = ours(core, sampler, steps, precision=precision)
        named[f"{sampler} {steps}"] = (sample, batch_size)
    rounds: dict[str, list[Taken]] = {name: [] for name in named}
    images: dict[str, list[Tensor]] = {name: [] for name in named}
    meter = Meter(MeterSettings(attribution="process_share"))
    meter.start()
    for first in range(0, num_rounds * batch_size, batch_size):
        for name, (sample, size) in named.items():
            taken, made = measured(meter, sample, range(first, first + size))
            rounds[name].append(taken)
            images[name].append(made)
            print(f"{dims}D {name}: {taken.cpu_s:.4g} s of CPU time per image", flush=True)
    meter.stop()
    features = features_of_encoder(core.vqgan)
    real = real_images(core, QualityConfig(dims=dims), features)
    judged = [
        _setting(features, real, name, torch.cat(images[name]), medians(rounds[name]))
        for name in list(named)[1:]
    ]
    best = iso_quality(judged, judged[0])
    assert best is not None  # at least 1000 steps, unless every image was rejected
    ways = {name: _way(name, medians(rounds[name])) for name in named}
    return Report(
        dims=dims,
        size=core.spec.size,
        iterations=ITERATIONS[dims],
        precision=precision,
        batch_size=batch_size,
        num_rounds=num_rounds,
        baseline=ways["a"],
        same_steps=ways[f"ddpm {STEPS}"],
        iso_quality=ways[f"{best.sampler} {best.steps}"],
        ways=tuple(ways[f"{found.sampler} {found.steps}"] for found in judged),
        settings=tuple(judged),
        real=judge(real.held_out, real.training, real.held_out),
        reconstruction=judge(real.reconstructed, real.training, real.held_out),
    )


def _setting(
    features: Features, real: RealImages, name: str, images: Tensor, taken: Taken
) -> Setting:
    """Returns a setting with its carbon; by CPU time where no energy can be measured."""
    sampler, steps = name.split()
    joules = taken.cpu_s if taken.energy_joules is None else taken.energy_joules
    cost_g = co2e_g(joules / 3.6e6, pue=DEFAULT_PUE, intensity_g_per_kwh=EU27_G_PER_KWH)
    quality = judge(image_set(features, images), real.training, real.held_out)
    return Setting(sampler, int(steps), cost_g, quality)


def _way(name: str, taken: Taken) -> Way:
    return Way(name, taken.wall_s, taken.cpu_s, taken.energy_joules)


def untrained_rows(
    device: torch.device,
    *,
    sizes: Sequence[tuple[int, tuple[int, ...]]] = GPU_SIZES,
    model_size: str = "medium",
    steps: Sequence[int] = GPU_STEPS,
    peak_edge: int = 8192,
) -> list[GpuRow]:
    """Returns what one image takes on a device at the paper's sizes, by untrained networks.

    Energy does not depend on the weights. It is the counter's where the GPU has one.
    """
    peak = peak_tflop_per_s(device, edge=peak_edge)
    meter = Meter()
    meter.start()
    rows = []
    for dims, size in sizes:
        spec = ModelSpec(dims, size, model_size)
        unet = prepared(build_unet(spec).to(device).eval().requires_grad_(False), is_compiled=False)
        vqgan = build_vqgan(spec).to(device).eval().requires_grad_(False)
        ldm = LdmCheckpoint(spec=spec, unet=unet, vqgan=vqgan, latent_scale=1.0)
        measured(meter, ours(ldm, "unipc", 2, precision="bf16"), range(1))  # warms up
        for number in steps:
            sampler = "ddpm" if number == STEPS else "unipc"
            sample = ours(ldm, sampler, number, precision="bf16")
            taken, _ = measured(meter, sample, range(1))
            tflop = cost_of(spec).sample_tflop(number)
            rows.append(
                GpuRow(
                    spec.size, model_size, number, taken.energy_joules, taken.wall_s, tflop, peak
                )
            )
    meter.stop()
    return rows


def peak_tflop_per_s(device: torch.device, *, edge: int, num: int = 20) -> float:
    """Returns what a device reaches in bf16 where nothing but multiplying is asked of it."""
    matrix = torch.randn(edge, edge, device=device, dtype=torch.bfloat16)
    matrix @ matrix
    _wait_for(device)
    start_s = time.perf_counter()
    for _ in range(num):
        matrix @ matrix
    _wait_for(device)
    return num * 2 * edge**3 / (time.perf_counter() - start_s) / 1e12


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measures and writes the page."""
    torch.set_num_threads(1)  # as the project does for tiny; kinder to the baseline than two
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", help="Folder that keeps the trained models for another time.")
    store = parser.parse_args().store
    with tempfile.TemporaryDirectory() as folder:
        place = Path(store or folder).resolve()
        place.mkdir(parents=True, exist_ok=True)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{place}/mlflow.db"
        with contextlib.chdir(place):  # artifacts lie beside the store
            reports = [
                compared(dims, num_rounds=NUM_ROUNDS, batch_size=BATCH_SIZE) for dims in (2, 3)
            ]
    gpu_rows = []
    if torch.cuda.is_available():
        gpu_rows = untrained_rows(torch.device("cuda"))
    PAGE.write_text(page(reports, gpu_rows), encoding="utf-8")
    print(f"Wrote {PAGE}")


if __name__ == "__main__":
    main()
