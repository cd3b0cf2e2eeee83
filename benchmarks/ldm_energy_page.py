"""The page of ``benchmarks.ldm_energy``: its figures as Markdown, apart from measuring them."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ldm_project.diffusion.iso_quality import Setting
from ldm_project.diffusion.quality import Estimate, Quality
from ldm_project.parsing import size_text

# The bars: times less per image than the baseline, by dimension.
SAME_STEPS_BAR = {2: 3.0, 3: 5.0}
ISO_QUALITY_BAR = 40.0
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Way:
    """The cost of an image by one way of sampling, as medians over the rounds."""

    name: str
    wall_s: float
    cpu_s: float
    energy_joules: float | None


@dataclass(frozen=True)
class Report:
    """The ways of sampling at one dimension, and the quality of our settings."""

    dims: int
    size: tuple[int, ...]
    iterations: tuple[int, int]  # of the trainings of VQ-GAN and UNet
    precision: str
    batch_size: int
    num_rounds: int
    baseline: Way
    same_steps: Way
    iso_quality: Way | None  # None: it cannot be judged, or no other is shown to be as good
    ways: tuple[Way, ...]  # ours, in the order of the settings
    settings: tuple[Setting, ...]  # 1000 steps first
    differences_hu: tuple[float, ...]  # of each setting's images from those of 1000 steps
    stranger_difference_hu: float  # of two images of 1000 steps
    real: Quality
    reconstruction: Quality
    measured: str  # when, and on which CPU
    doubts: tuple[str, ...] = ()  # why equal quality cannot be judged

    def write(self, path: Path) -> None:
        """Writes the report to a file, so that one dimension can be measured without the other."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Report":
        """Returns the report in a file."""
        kept = json.loads(path.read_text(encoding="utf-8"))
        ways = {
            name: kept[name] and Way(**kept[name])
            for name in ("baseline", "same_steps", "iso_quality")
        }
        qualities = {name: _quality(kept[name]) for name in ("real", "reconstruction")}
        lists = {
            name: tuple(kept[name]) for name in ("size", "iterations", "differences_hu", "doubts")
        }
        return cls(
            **{
                **kept,
                **ways,
                **qualities,
                **lists,
                "ways": tuple(Way(**way) for way in kept["ways"]),
                "settings": tuple(_setting(setting) for setting in kept["settings"]),
            }
        )


def _setting(kept: dict[str, Any]) -> Setting:
    read = {"quality": _quality(kept["quality"]), "shortfalls": tuple(kept["shortfalls"])}
    return Setting(**{**kept, **read})


def _quality(kept: dict[str, Any]) -> Quality:
    estimates = {name: Estimate(**kept[name]) for name in ("frechet", "kid", "plane_frechet")}
    return Quality(**{**kept, **estimates})


def page(reports: Sequence[Report], on_gpu: str) -> str:
    """Returns the page; its last section is the text ``on_gpu``."""
    return HEAD.format(
        ways="\n".join(line for report in reports for line in _way_rows(report)),
        verdicts="".join(_verdict(report) for report in reports),
        quality="\n".join(line for report in reports for line in _quality_rows(report)),
        on_gpu=on_gpu,
        training="; ".join(_training(report) for report in reports),
        num_rounds=_by_dims(reports, lambda report: report.num_rounds),
        batch_size=reports[0].batch_size,
        num_images=_by_dims(reports, lambda report: report.num_rounds * report.batch_size),
        precision=reports[0].precision,
        measured="; ".join(f"in {report.dims}D {report.measured}" for report in reports),
        strangers=_by_dims(reports, lambda report: round(report.stranger_difference_hu)),
        ours="(b) samples"
        if all(it.iso_quality is None for it in reports)
        else "(b) and (c) sample",
    )


def _verdict(report: Report) -> str:
    """Returns why no way of equal quality is named, or why other settings are not."""
    if report.doubts:
        doubts = "".join(f"- {doubt}\n" for doubt in report.doubts)
        return f"\nEqual quality in {report.dims}D cannot be judged:\n\n{doubts}"
    reference, *others = report.settings
    reasons = "".join(
        f"- {setting.sampler} {setting.steps}: {'; '.join(setting.shortfalls)}.\n"
        for setting in others
        if setting.shortfalls
    )
    as_good = f"shown to be as good as {reference.sampler} {reference.steps}"
    if report.iso_quality is None:
        return (
            f"\nEqual quality in {report.dims}D can be judged, but none of these settings is "
            f"{as_good}, so there is no (c):\n\n{reasons}"
        )
    return f"\nIn {report.dims}D these settings are not {as_good}:\n\n{reasons}" if reasons else ""


def _by_dims(reports: Sequence[Report], number_of: Callable[[Report], int]) -> str:
    """Returns a number of each report, as ``in 2D 64, in 3D 32``."""
    return ", ".join(f"in {report.dims}D {number_of(report)}" for report in reports)


def _training(report: Report) -> str:
    vqgan_iterations, unet_iterations = report.iterations
    return (
        f"in {report.dims}D a VQ-GAN of {vqgan_iterations:,} iterations and a UNet of "
        f"{unet_iterations:,}"
    )


def _way_rows(report: Report) -> Iterator[str]:
    names: dict[str, tuple[Way, float | None]] = {
        "(a) monai-generative, fp32, batch 1, DDPM 1000": (report.baseline, None),
        f"(b) ours, same steps ({report.same_steps.name})": (
            report.same_steps,
            SAME_STEPS_BAR[report.dims],
        ),
    }
    if report.iso_quality is not None:
        name = f"(c) ours, equal quality ({report.iso_quality.name})"
        names[name] = (report.iso_quality, ISO_QUALITY_BAR)
    for name, (way, bar) in names.items():
        energy = NOT_MEASURED if way.energy_joules is None else f"{way.energy_joules:.3g}"
        cpu, wall = (
            f"{before / after:.3g}×"
            for before, after in (
                (report.baseline.cpu_s, way.cpu_s),
                (report.baseline.wall_s, way.wall_s),
            )
        )
        asked = "" if bar is None else f"{bar:g}×"
        yield (
            f"| {report.dims}D {size_text(report.size)} | {name} | {way.cpu_s:.3g} "
            f"| {way.wall_s:.3g} | {energy} | {cpu} | {wall} | {asked} |"
        )


def _quality_rows(report: Report) -> Iterator[str]:
    rows = zip(report.settings, report.ways, report.differences_hu, strict=True)
    for position, (setting, way, difference_hu) in enumerate(rows):
        costs = f"{way.cpu_s:.3g} | {f'{difference_hu:.0f}' if position else ''}"
        yield _quality_row(f"{report.dims}D | {way.name}", costs, setting.quality)
    yield _quality_row(f"{report.dims}D | real, held out", " | ", report.real)
    yield _quality_row(f"{report.dims}D | VQ-GAN's reconstruction", " | ", report.reconstruction)


def _quality_row(name: str, costs: str, quality: Quality) -> str:
    kid, frechet = quality.kid, quality.frechet
    return (
        f"| {name} | {costs} | {kid.value:.3g} ({kid.low:.3g} to {kid.high:.3g}) "
        f"| {frechet.value:.3g} | {quality.plane_frechet.value:.3g} "
        f"| {quality.hu_wasserstein:.0f} | {quality.pair_ms_ssim:.2f} "
        f"| {quality.memorised_fraction:.0%} | {quality.accepted_fraction:.0%} |"
    )


HEAD = """\
# What an image costs: the usual way and ours

Written by `python -m benchmarks.ldm_energy`. All figures are per image, of tiny models trained on \
phantoms, on one thread of a CPU: {training}. The ways take turns, in rounds ({num_rounds}); \
figures are medians over the rounds. CPU time is the one to go by: wall time contains what else \
the machine did. CPU time grows, too, where other work shares the core, for all ways alike: \
compare within one page, not between two. Energy is this process's share of the CPU's, estimated \
from its design power. Measured {measured}.

(a) samples one image at a time in fp32, with monai-generative's `LatentDiffusionInferer`, its \
networks and its `DDPMScheduler`; it got the schedule the model was trained with. {ours} \
{batch_size} at once, the UNet in {precision}. (a) and (b) use the same weights, steps and \
formula, so (b)'s images stand for the quality of both.

| images | way | CPU s | wall s | J | less CPU time | less wall time | asked for |
|---|---|---:|---:|---:|---:|---:|---:|
{ways}
{verdicts}
## Quality

*Differs*: the mean difference of a pixel or voxel from the image of ddpm at 1000 steps that \
began with the same noise (two images of ddpm with other noise: {strangers}). `dpmpp_sde` adds \
noise of its own in each step; its judged images had that of ddpm, summed over each step, so that \
a difference is the solver's error and not chance. Drawing it is not in the CPU time.

Images of each setting ({num_images}) against the training images, by features of the VQ-GAN's \
encoder in units of their spread: KID with its 95 % bootstrap interval, Fréchet distance, \
the second judge's Fréchet distance (a small network that learns what was done to real images; of \
volumes the mean over three planes), Wasserstein-1 distance of the histograms in HU, mean MS-SSIM \
of two images (1: all the same), images that are copies of training images, and images accepted. \
*Equal quality* is the least CPU time per accepted image among settings that both judges find no \
farther from real images than 1000 steps by more than a margin stated in advance, and that pass \
the checks ([what is checked](image_quality.md)).

| | setting | CPU s | differs, HU | KID | Fréchet | second judge | HU | alike | copies | accepted |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|
{quality}

{on_gpu}"""
