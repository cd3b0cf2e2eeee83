"""The synth command: CT images sampled, measured per image and saved as one run.

Every process that shares the sampling runs the same function, and all processes exchange values in
the same order; ``is_first`` guards what only the first process writes.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import mlflow
import torch
from torch import Tensor
from tqdm import tqdm

from ldm_project.ct.hounsfield import hu_from_network
from ldm_project.ct.images import contact_sheet, write_nifti, write_png
from ldm_project.diffusion.checkpoints import LdmCheckpoint
from ldm_project.diffusion.flops import cost_of
from ldm_project.diffusion.models import PublishedSpec
from ldm_project.diffusion.noise_schedulers import check_sampler
from ldm_project.diffusion.processes import ALONE, Processes
from ldm_project.diffusion.sampling import decode_samples, denoise, initial_noise
from ldm_project.parsing import size_text
from ldm_project.runs.arithmetic_metrics import log_arithmetic
from ldm_project.runs.command_runs import command_run, tracked
from ldm_project.runs.references import ModelReference, note_used_model
from ldm_project.runs.trained_ldm import open_ldm, precision_of, trained_ldm
from ldm_project.settings import SynthSettings
from mlflow_carbon.accounting.cheaper import FEW_STEPS
from mlflow_carbon.tracking.track import Tracker

MAX_PREVIEW_IMAGES = 12


@dataclass(frozen=True)
class SampledBatch:
    """Images of one window, ``(B, 1, *S)`` in HU, and the index of the first."""

    first_index: int
    images_hu: Tensor


def run_synth(settings: SynthSettings, *, processes: Processes = ALONE) -> str:
    """Samples CT images in a run of its own; returns the run's id.

    If no LDM is given or registered for this size and data, the first process trains a tiny LDM.
    The runs of that training end before the meter of the sampling starts.

    Args:
        settings: what to sample.
        processes: that share the samples; all of them call this.
    """
    with command_run(settings, processes=processes) as run_id:
        if settings.model is None:
            check_sampler(settings.sampler, settings.training.objective)  # before one is trained
        reference = trained_ldm(settings, run_id, processes)
        ldm = open_ldm(reference, settings)
        check_sampler(settings.sampler, ldm.objective)
        with (
            sampling_run(settings, reference, run_id, is_first=processes.is_first),
            tempfile.TemporaryDirectory() as folder,
        ):
            processes.meet()  # before the first window, which would hold the waiting
            with tracked(
                settings, unit="sample", total_units=settings.num_samples, run_id=run_id
            ) as tracker:
                offer_fewer_steps(tracker, ldm, settings)
                sampled = sample_batches(tracker, ldm, settings, processes)
                _save(Path(folder), sampled)
            if processes.is_first:
                log_sampling_arithmetic(run_id, ldm, settings)
                mlflow.log_artifacts(folder)
        return run_id


@contextmanager
def sampling_run(
    settings: SynthSettings,
    reference: ModelReference,
    run_id: str,
    *,
    tags: Mapping[str, str] | None = None,
    is_first: bool = True,
) -> Iterator[None]:
    """Makes the run active, in the first process only, for a block that samples.

    Args:
        settings: of the sampling.
        reference: the model that is sampled from.
        run_id: of its run.
        tags: further tags of the run, beside the tags of every sampling.
        is_first: whether this process writes to the run.
    """
    if not is_first:
        yield
        return
    with mlflow.start_run(run_id=run_id):
        mlflow.set_tags(_tags(settings, reference) | dict(tags or {}))
        note_used_model(run_id, reference)
        yield


def offer_fewer_steps(tracker: Tracker, ldm: LdmCheckpoint, settings: SynthSettings) -> None:
    """Lets the receipt say what few steps would save, by the arithmetic, the decoding included."""
    if settings.steps > FEW_STEPS and settings.sampler != "ddpm":  # which needs its many steps
        cost = cost_of(ldm.spec)
        saving = 1 - cost.sample_tflop(FEW_STEPS) / cost.sample_tflop(settings.steps)
        tracker.could_save(f"{FEW_STEPS} steps", saving)


def log_sampling_arithmetic(run_id: str, ldm: LdmCheckpoint, settings: SynthSettings) -> None:
    """Logs the TFLOP of a sample, and J per TFLOP; call it after the metering has ended.

    The TFLOP of a published model are not counted, so nothing is logged of one.
    """
    if isinstance(ldm.spec, PublishedSpec):
        return
    tflop = cost_of(ldm.spec).sample_tflop(settings.steps)
    log_arithmetic(run_id, unit="sample", tflop=tflop)


def sample_batches(
    tracker: Tracker, ldm: LdmCheckpoint, settings: SynthSettings, processes: Processes = ALONE
) -> Iterator[SampledBatch]:
    """Yields batch after batch, each denoised and decoded inside a window of its own.

    Processes that share the work take one batch each per window; the first process yields all
    batches, other processes yield nothing. The division into batches does not depend on the number
    of processes, because an image's last bits depend on the size of its batch.
    """
    num_samples = settings.num_samples
    batches = batches_of(num_samples, settings.batch_size)
    precision = precision_of(settings)
    with tqdm(
        total=num_samples * settings.steps,
        desc="synthesis",
        unit="step",
        disable=not processes.is_first,
    ) as progress:
        for first in range(0, len(batches), processes.count):
            together = batches[first : first + processes.count]
            num_units = sum(map(len, together))
            tell_step = partial(progress.update, num_units)
            with tracker.window(num_units=num_units):
                own = [
                    sampled_images(ldm, settings, indices, precision, tell_step)
                    for indices in together[processes.rank : processes.rank + 1]
                ]
                sampled = processes.gathered(own)
            if processes.is_first:
                yield SampledBatch(together[0].start, torch.cat([*chain(*sampled)]))


def batches_of(num_samples: int, batch_size: int) -> list[range]:
    """Returns the global indices of each batch."""
    return [
        range(first, min(first + batch_size, num_samples))
        for first in range(0, num_samples, batch_size)
    ]


def sampled_images(
    ldm: LdmCheckpoint,
    settings: SynthSettings,
    indices: Sequence[int],
    precision: str,
    tell_step: Callable[[], object] = lambda: None,
    *,
    has_noise_of_ddpm: bool = False,
) -> Tensor:
    """Returns the images ``(B, 1, *S)`` of these indices, in HU.

    Args:
        ldm: to sample from.
        settings: seed, sampler and steps.
        indices: of the images among all.
        precision: of the UNet.
        tell_step: called after each denoising step.
        has_noise_of_ddpm: as of ``denoise``.
    """
    noise = initial_noise(ldm.spec, indices, seed=settings.seed)
    latents = noise
    for step in denoise(
        ldm.unet,
        noise,
        sampler=settings.sampler,
        steps=settings.steps,
        precision=precision,
        schedule=ldm.schedule,
        has_noise_of_ddpm=has_noise_of_ddpm,
    ):
        latents = step.latents
        tell_step()
    images = decode_samples(ldm.vqgan, latents, ldm.latent_scale)
    return hu_from_network(images).cpu()


def _save(folder: Path, sampled: Iterator[SampledBatch]) -> None:
    """Writes every image as NIfTI, 2D ones as PNG too, and a preview of the first ones."""
    samples = folder / "samples"
    samples.mkdir()
    previewed: list[Tensor] = []
    for batch in sampled:
        for index, image_hu in enumerate(batch.images_hu, start=batch.first_index):
            write_nifti(samples / f"{index:05d}.nii.gz", image_hu)
            if image_hu.ndim == 3:  # (1, H, W)
                write_png(samples / f"{index:05d}.png", image_hu)
            if len(previewed) < MAX_PREVIEW_IMAGES:
                previewed.append(image_hu)
    if previewed:  # a further process has none
        contact_sheet(torch.stack(previewed)).save(folder / "preview.png")


def _tags(settings: SynthSettings, reference: ModelReference) -> dict[str, str]:
    """Returns the run tags, which hold the values chosen for parameters left at ``auto``."""
    return {
        "ldm.size": size_text(settings.size),
        "ldm.model": reference.uri,
        "ldm.num_samples": str(settings.num_samples),
        "ldm.batch_size": str(settings.batch_size),
        "ldm.precision": precision_of(settings),
    }
