"""The synthesis command: CT images sampled, measured per image and saved as one run."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import mlflow
import torch
from torch import Tensor
from tqdm import tqdm

from ldm_project.config import AUTO, SynthConfig
from ldm_project.ct.hounsfield import hu_from_network
from ldm_project.ct.images import contact_sheet, write_nifti, write_png
from ldm_project.diffusion.acceleration import limit_threads
from ldm_project.diffusion.checkpoints import LdmCheckpoint
from ldm_project.diffusion.flops import cost_of
from ldm_project.diffusion.noise_schedulers import check_sampler
from ldm_project.diffusion.processes import ALONE, Processes
from ldm_project.diffusion.sampling import decode_samples, denoise, initial_noise
from ldm_project.runs.arithmetic_metrics import log_arithmetic
from ldm_project.runs.command_runs import command_run, tracked
from ldm_project.runs.references import ModelReference, find_model, note_used_model
from ldm_project.runs.train import data_spec
from ldm_project.runs.trained_ldm import open_ldm, precision_of, trained_ldm
from ldm_project.settings import resolve_num_samples, resolve_synth_batch_size, size_text
from mlflow_carbon.tracking.track import Tracker

MAX_PREVIEW_IMAGES = 12


@dataclass(frozen=True)
class SampledBatch:
    """Images of one window, ``(B, 1, *S)`` in HU, and the index of the first."""

    first_index: int
    images_hu: Tensor


def run_synth(config: SynthConfig, processes: Processes = ALONE) -> str:
    """Samples CT images in a run of its own; returns the run's id.

    Where no LDM is given, or registered for this size and data, a tiny one is trained first, in
    runs that have ended before the meter of this one starts.

    Args:
        config: what to sample.
        processes: that share the samples; this is the first of them, the others assist.
    """
    with command_run("synth", config, processes=processes) as run_id:
        if config.model == AUTO:
            check_sampler(config.sampler, config.objective)  # before one is trained
        reference = trained_ldm(config, run_id, processes)
        processes.shared((run_id, reference.uri))
        ldm = open_ldm(reference, config)
        check_sampler(config.sampler, ldm.objective)
        with mlflow.start_run(run_id=run_id), tempfile.TemporaryDirectory() as folder:
            mlflow.set_tags(sampling_tags(config, reference))
            note_used_model(run_id, reference)
            num_samples = resolve_num_samples(config)
            processes.meet()  # before the first window, which would hold the waiting
            with tracked(config, unit="sample", total_units=num_samples) as tracker:
                sampled = sample_batches(tracker, ldm, config, processes)
                _save(Path(folder), sampled)
            log_arithmetic(
                run_id, unit="sample", tflop=cost_of(ldm.spec).sample_tflop(config.steps)
            )
            mlflow.log_artifacts(folder)
        return run_id


def assist_synth(config: SynthConfig, processes: Processes) -> None:
    """Does a further process's share of what the first one runs as ``run_synth``."""
    limit_threads(config.model_size)
    run_id, uri = processes.shared()
    reference = find_model(uri, "ldm", config, data_digest=None)
    assert reference is not None  # only 'auto' can find nothing
    ldm = open_ldm(reference, config)
    num_samples = resolve_num_samples(config)
    processes.meet()
    with tracked(config, unit="sample", total_units=num_samples, run_id=run_id) as tracker:
        for _ in sample_batches(tracker, ldm, config, processes):
            pass  # the first process has them


def sample_batches(
    tracker: Tracker, ldm: LdmCheckpoint, config: SynthConfig, processes: Processes = ALONE
) -> Iterator[SampledBatch]:
    """Yields batch after batch, each denoised and decoded inside a window of its own.

    Processes that share the work take a batch each in a window, and the first one yields them all.
    The batches are those of a process alone: on its size an image's last bits depend.
    """
    num_samples, batch_size = resolve_num_samples(config), resolve_synth_batch_size(config)
    batches = [
        range(first, min(first + batch_size, num_samples))
        for first in range(0, num_samples, batch_size)
    ]
    with tqdm(
        total=num_samples * config.steps,
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
                    _sample_batch(ldm, config, indices, tell_step)
                    for indices in together[processes.rank : processes.rank + 1]
                ]
                sampled = processes.gathered(own)
            if processes.is_first:
                yield SampledBatch(together[0].start, torch.cat([*chain(*sampled)]))


def _sample_batch(
    ldm: LdmCheckpoint, config: SynthConfig, indices: Sequence[int], tell_step: Callable[[], object]
) -> Tensor:
    noise = initial_noise(ldm.spec, indices, seed=config.seed)
    latents = noise
    for step in denoise(
        ldm.unet,
        noise,
        sampler=config.sampler,
        steps=config.steps,
        precision=precision_of(config),
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
    contact_sheet(torch.stack(previewed)).save(folder / "preview.png")


def sampling_tags(config: SynthConfig, reference: ModelReference) -> dict[str, str]:
    """Returns what the parameters that were left open became."""
    return {
        "ldm.size": size_text(data_spec(config).size),
        "ldm.model": reference.uri,
        "ldm.num_samples": str(resolve_num_samples(config)),
        "ldm.batch_size": str(resolve_synth_batch_size(config)),
        "ldm.precision": precision_of(config),
    }
