"""Writes docs/ldm_energy.md: what an image costs the way most people sample it, and by ours.

Run it as ``python -m benchmarks.ldm_energy``: an hour and a half of one core, of which an hour
trains tiny models, unless ``--store`` names a folder that has them. It takes all ways of sampling
in turns, so that what else a machine does meets them alike. ``--dims 3`` measures volumes alone:
the page's slices are then those that were kept.
"""

import argparse
import contextlib
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.image_quality import ITERATIONS, NUM_PHANTOMS, UNET_BATCH_SIZE
from benchmarks.ldm_energy_page import Report, Way, page
from benchmarks.ldm_gpu import reached_in_multiplication, sampling_rows, training_rows
from benchmarks.ldm_gpu_page import GpuReport, gpu_section
from benchmarks.ldm_ways import STEPS, Sample, Taken, baseline, measured, ours
from ldm_project.config import PHANTOM, SQUARED, TrainRunConfig, VqganRunConfig
from ldm_project.ct.hounsfield import hu_from_network
from ldm_project.diffusion.checkpoints import LdmCheckpoint, load_ldm
from ldm_project.diffusion.fidelity import doubts
from ldm_project.diffusion.iso_quality import Setting, iso_quality
from ldm_project.diffusion.quality import image_set, judge
from ldm_project.resolution import train_settings, vqgan_settings
from ldm_project.runs.commands import run_command
from ldm_project.runs.quality import judged_setting, real_images
from ldm_project.runs.references import find_model, ldm_name
from ldm_project.settings import TrainSettings, VqganSettings
from mlflow_carbon.metering.cpu_power import read_cpu
from mlflow_carbon.metering.meter import Meter, MeterSettings

PAGE = Path(__file__).parent.parent / "docs" / "ldm_energy.md"
KEPT = Path(__file__).parent / "measured" / "ldm_energy"  # the last report of each dimension
GPU_REPORT = Path(__file__).parent / "ldm_gpu_report.json"  # of the last run on a GPU
NUM_ROUNDS_BY_DIMS = {2: 16, 3: 2}  # a volume takes three times what a slice does
BATCH_SIZE = 16
GRID = (
    ("ddpm", 250),
    ("dpmpp_sde", 100),
    ("dpmpp_sde", 50),
    ("dpmpp_sde", 20),
    ("unipc", 50),
    ("unipc", 20),
    ("ddim", 100),
)


def training_of(dims: int) -> TrainSettings:
    """Returns the training settings of the tiny LDM of a dimension."""
    vqgan_iterations, iterations = ITERATIONS[dims]
    return train_settings(
        TrainRunConfig(
            dims=dims,
            vqgan_iterations=vqgan_iterations,
            iterations=iterations,
            batch_size=str(UNET_BATCH_SIZE[dims]),
            loss=SQUARED,
            data=f"{PHANTOM}:{NUM_PHANTOMS}",
            device="cpu",
        )
    )


def autoencoder_training_of(dims: int) -> VqganSettings:
    """Returns the training settings of the VQ-GAN of that LDM."""
    return vqgan_settings(
        VqganRunConfig(
            dims=dims,
            vqgan_iterations=ITERATIONS[dims][0],
            data=f"{PHANTOM}:{NUM_PHANTOMS}",
            device="cpu",
        )
    )


def trained(settings: TrainSettings) -> tuple[LdmCheckpoint, LdmCheckpoint]:
    """Returns a tiny LDM twice, with equal weights: in MONAI core and in monai-generative."""
    found = find_model(None, "ldm", ldm_name(settings), data_digest=None)
    if found is None:
        run_command(autoencoder_training_of(settings.dims))  # which has a batch size of its own
        run_command(settings)
        found = find_model(None, "ldm", ldm_name(settings), data_digest=None)
    assert found is not None  # trained above
    core, generative = (
        load_ldm(found.checkpoint, backend=backend, device="cpu")
        for backend in ("core", "generative")
    )
    return core, generative


def medians(rounds: Sequence[Taken]) -> Taken:
    """Returns the median of each figure over the rounds."""
    energies = [taken.energy_joules for taken in rounds if taken.energy_joules is not None]
    return Taken(
        wall_s=statistics.median(taken.wall_s for taken in rounds),
        cpu_s=statistics.median(taken.cpu_s for taken in rounds),
        energy_joules=statistics.median(energies) if energies else None,
    )


def compared(dims: int, *, num_rounds: int, batch_size: int) -> Report:
    """Returns the report on the baseline, our sampling at the same steps, and the whole grid."""
    training = training_of(dims)
    core, generative = trained(training)
    precision = "bf16" if torch.cpu.get_capabilities().get("avx512_bf16") else "fp32"
    named: dict[str, tuple[Sample, int]] = {"a": (baseline(generative), 1)}
    for sampler, steps in (("ddpm", STEPS), *GRID):
        sample = ours(core, sampler, steps, precision=precision)
        named[f"{sampler} {steps}"] = (sample, batch_size)
    judged_by = {  # where drawing the noise that judging needs is no part of the cost
        f"dpmpp_sde {steps}": ours(
            core, sampler, steps, precision=precision, has_noise_of_ddpm=True
        )
        for sampler, steps in GRID
        if sampler == "dpmpp_sde"
    }
    rounds: dict[str, list[Taken]] = {name: [] for name in named}
    images: dict[str, list[Tensor]] = {name: [] for name in named}
    meter = Meter(MeterSettings(attribution="process_share"))
    meter.start()
    for first in range(0, num_rounds * batch_size, batch_size):
        for name, (sample, size) in named.items():
            indices = range(first, first + size)
            taken, made = measured(meter, sample, indices)
            rounds[name].append(taken)
            images[name].append(judged_by[name](indices) if name in judged_by else made)
            print(f"{dims}D {name}: {taken.cpu_s:.4g} s of CPU time per image", flush=True)
    meter.stop()
    real = real_images(core, training)
    made_by = {name: torch.cat(images[name]).cpu() for name in list(named)[1:]}
    sets = {name: image_set(real.features, made) for name, made in made_by.items()}
    reference = made_by[f"ddpm {STEPS}"]
    all_steps = sets[f"ddpm {STEPS}"]
    judged = [
        judged_setting(found, None if found is all_steps else all_steps, real, **_parts(name))
        for name, found in sets.items()
    ]
    ways = {name: _way(name, medians(rounds[name])) for name in named}
    reconstruction = judge(real.reconstructed, real.training, real.held_out)
    found = doubts(
        real=real.anchor,
        held_out=real.held_out_quality,
        reconstruction=reconstruction,
        reference=judged[0].quality,
        num_images=num_rounds * batch_size,
        num_real=len(real.held_out.features),
        judge_accuracy=real.judge_accuracy,
    )
    best = None if found else cheapest_by_cpu_time(judged, ways)
    answer = None if best is judged[0] else best
    return Report(
        dims=dims,
        size=core.spec.size,
        iterations=ITERATIONS[dims],
        precision=precision,
        batch_size=batch_size,
        num_rounds=num_rounds,
        baseline=ways["a"],
        same_steps=ways[f"ddpm {STEPS}"],
        iso_quality=None if answer is None else ways[f"{answer.sampler} {answer.steps}"],
        ways=tuple(ways[f"{found.sampler} {found.steps}"] for found in judged),
        settings=tuple(judged),
        differences_hu=tuple(mean_difference_hu(made, reference) for made in made_by.values()),
        stranger_difference_hu=mean_difference_hu(reference.roll(1, 0), reference),
        real=real.anchor,
        reconstruction=reconstruction,
        measured=f"on {date.today()} on one core ({read_cpu().name})",
        doubts=found,
    )


def mean_difference_hu(images: Tensor, others: Tensor) -> float:
    """Returns the mean absolute difference of images and others, in pairs."""
    return float((hu_from_network(images) - hu_from_network(others)).abs().mean())


def cheapest_by_cpu_time(judged: Sequence[Setting], ways: Mapping[str, Way]) -> Setting:
    """Returns the setting as good as 1000 steps that takes the least CPU time."""
    best = iso_quality(judged, cost_of=lambda found: ways[f"{found.sampler} {found.steps}"].cpu_s)
    assert best is not None  # at least 1000 steps, unless every image was rejected
    return best


def _parts(name: str) -> dict[str, Any]:
    """Returns the sampler and the steps of a setting's name."""
    sampler, steps = name.split()
    return {"sampler": sampler, "steps": int(steps)}


def _way(name: str, taken: Taken) -> Way:
    return Way(name, taken.wall_s, taken.cpu_s, taken.energy_joules)


def main() -> None:
    """Measures and writes the page."""
    torch.set_num_threads(1)  # as the project does for tiny; kinder to the baseline than two
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", help="Folder that keeps the trained models for another time.")
    parser.add_argument(
        "--dims", type=int, nargs="+", choices=(2, 3), default=(2, 3), help="What to measure."
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(given.store or folder).resolve()
        place.mkdir(parents=True, exist_ok=True)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{place}/mlflow.db"
        with contextlib.chdir(place):  # artifacts lie beside the store
            for dims in given.dims:
                num_rounds = NUM_ROUNDS_BY_DIMS[dims]
                report = compared(dims, num_rounds=num_rounds, batch_size=BATCH_SIZE)
                report.write(kept_at(dims))
    reports = [Report.read(kept_at(dims)) for dims in NUM_ROUNDS_BY_DIMS]
    _write(page(reports, _gpu_section(GpuReport.read(GPU_REPORT))))
    if torch.cuda.is_available():
        gpu = torch.device("cuda")
        peak = reached_in_multiplication(gpu)
        gpu_report = GpuReport(
            tuple(sampling_rows(gpu, peak)),
            tuple(training_rows(gpu, peak)),
            note=f"{torch.cuda.get_device_name(gpu)}, torch {torch.__version__}.",
        )
        gpu_report.write(GPU_REPORT)
        _write(page(reports, _gpu_section(gpu_report)))


def kept_at(dims: int) -> Path:
    """Returns the file of the last report of a dimension."""
    return KEPT / f"{dims}d.json"


def _gpu_section(report: GpuReport) -> str:
    return gpu_section(report.sampling, report.training, report.note)


def _write(text: str) -> None:
    PAGE.write_text(text, encoding="utf-8")
    print(f"Wrote {PAGE}")


if __name__ == "__main__":
    main()
