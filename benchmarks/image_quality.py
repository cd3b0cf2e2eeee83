"""Prints what the tiny autoencoder keeps of held-out phantoms, by the CPU time of its training.

Run it as ``python -m benchmarks.image_quality --dims 3 --picture volumes.png``: half an hour of one
core. The picture shows real images, their reconstructions and, unless ``--unet-iterations`` is 0,
samples of a diffusion model that is trained on the latents. With ``--store`` the models are those
that ``make page-models`` left in a folder, and nothing is trained.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import mlflow
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ldm_project.config import (
    AUTOENCODERS,
    DEFAULT_SIZE_BY_DIMS,
    DEFAULT_VQGAN_BATCH_SIZE_BY_DIMS,
    HELD_OUT_FRACTION,
    HU_MAX,
    HU_MIN,
    MAX_SLICE_EPOCHS,
    PHANTOM,
    SQUARED,
    VQ,
    TrainRunConfig,
)
from ldm_project.ct.data import CtScans, DataSpec, batches, open_scans
from ldm_project.ct.hounsfield import hu_from_network
from ldm_project.ct.images import contact_sheet
from ldm_project.diffusion.acceleration import resolve_vqgan_precision
from ldm_project.diffusion.autoencoders import Autoencoder, decode, encode
from ldm_project.diffusion.checkpoints import load_ldm
from ldm_project.diffusion.diffusion_training import DiffusionTraining, train_diffusion
from ldm_project.diffusion.latents import encode_latents
from ldm_project.diffusion.models import ModelSpec, build_discriminator, build_unet, build_vqgan
from ldm_project.diffusion.quality import HU_EDGES, hu_wasserstein
from ldm_project.diffusion.sampling import decode_samples, denoise, initial_noise
from ldm_project.diffusion.vqgan_training import (
    VQGAN_LEARNING_RATE_BY_DIMS,
    VqganTraining,
    reconstructed,
    train_vqgan,
)
from ldm_project.resolution import train_settings
from ldm_project.runs.references import find_model, ldm_name

# Iterations of VQ-GAN and UNet, by dimension: those of the models of README and pages.
ITERATIONS = {2: (1350, 10_000), 3: (1400, 8000)}
UNET_BATCH_SIZE = {2: 8, 3: 16}  # of a volume four times the default: docs/image_quality.md
NUM_PHANTOMS = 320
NUM_POINTS = 8  # of the curve
NUM_HELD_OUT_EPOCHS = {2: 4, 3: 1}
NUM_SHOWN = {2: 4, 3: 2}
SAMPLER, SAMPLING_STEPS = "dpmpp_sde", 100  # docs/ldm_energy.md: as good as all 1000 in 2D
CPU = torch.device("cpu")
NETWORK_RANGE = 2.0  # width of [-1, 1]: the peak of the peak signal-to-noise ratio


@dataclass(frozen=True)
class Point:
    """What is kept of held-out images after some iterations, and the CPU time until then."""

    iteration: int
    cpu_s: float
    psnr_db: float
    mean_error_hu: float
    hu_wasserstein: float  # of the reconstructions to the same images


def point_of(images: Tensor, decoded: Tensor, *, iteration: int, cpu_s: float) -> Point:
    """Returns the errors of reconstructions of images ``(N, 1, *S)`` in [-1, 1]."""
    squares = (decoded - images).square().flatten(1).mean(dim=1)
    return Point(
        iteration,
        cpu_s,
        psnr_db=(10 * torch.log10(NETWORK_RANGE**2 / squares)).mean().item(),
        mean_error_hu=(hu_from_network(decoded) - hu_from_network(images)).abs().mean().item(),
        hu_wasserstein=hu_wasserstein(_hu_fractions(decoded), _hu_fractions(images)),
    )


def _hu_fractions(images: Tensor) -> np.ndarray:
    hu = hu_from_network(images).numpy().clip(HU_MIN, HU_MAX)
    counts, _ = np.histogram(hu, HU_EDGES)
    return counts / counts.sum()


def started(spec: ModelSpec, iterations: int) -> VqganTraining:
    """Returns the training of a VQ-GAN, as the project sets it up."""
    torch.manual_seed(0)
    return VqganTraining(
        build_vqgan(spec),
        build_discriminator(spec),
        iterations=iterations,
        learning_rate=VQGAN_LEARNING_RATE_BY_DIMS[spec.dims],
        precision=resolve_vqgan_precision(None, CPU, spec),
    )


def curve(training: VqganTraining, scans: CtScans, images: Tensor) -> Iterator[Point]:
    """Trains on scans to the end; yields what is kept of held-out images on the way."""
    drawn = batches(scans, batch_size=DEFAULT_VQGAN_BATCH_SIZE_BY_DIMS[images.ndim - 2])
    started_s, every = time.process_time(), max(1, training.iterations // NUM_POINTS)
    for step in train_vqgan(training, drawn):
        if step.iteration % every == 0:
            paused_s = time.process_time()
            training.vqgan.eval()
            decoded = torch.cat([reconstructed(training, it) for it in torch.split(images, 8)])
            training.vqgan.train()
            cpu_s = paused_s - started_s
            yield point_of(images, decoded, iteration=step.iteration, cpu_s=cpu_s)
            started_s += time.process_time() - paused_s  # judging is no training


def samples(training: VqganTraining, spec: ModelSpec, scans: CtScans, *, iterations: int) -> Tensor:
    """Trains a UNet on the VQ-GAN's latents; returns images ``(N, 1, *S)`` that it makes."""
    num_epochs = MAX_SLICE_EPOCHS if spec.dims == 2 else 1
    batch_size = UNET_BATCH_SIZE[spec.dims]
    num_batches = num_epochs * scans.num_scans // batch_size
    drawn = islice(batches(scans, batch_size=batch_size), num_batches)
    latents = encode_latents(training.vqgan, drawn)
    torch.manual_seed(0)
    diffusion = DiffusionTraining(build_unet(spec), iterations=iterations, loss=SQUARED)
    for _ in train_diffusion(diffusion, latents, batch_size=batch_size, seed=0):
        pass
    return sampled(spec, diffusion.averaged_unet, training.vqgan, latents.scale)


def sampled(spec: ModelSpec, unet: nn.Module, vqgan: Autoencoder, scale: float) -> Tensor:
    """Returns images ``(N, 1, *S)`` in [-1, 1], as many as the picture shows."""
    noise = initial_noise(spec, range(NUM_SHOWN[spec.dims]), seed=0)
    *_, final = denoise(unet, noise, sampler=SAMPLER, steps=SAMPLING_STEPS)
    return decode_samples(vqgan, final.latents, scale)


@torch.inference_mode()
def show_trained(store: Path, dims: int, images: Tensor, path: Path) -> None:
    """Prints what the newest models of a store keep of images, and writes the picture."""
    mlflow.set_tracking_uri(f"sqlite:///{store.resolve()}/mlflow.db")
    settings = train_settings(TrainRunConfig(dims=dims))
    found = find_model(None, "ldm", ldm_name(settings), data_digest=None)
    if found is None:
        raise SystemExit(f"No model {ldm_name(settings)!r} in {store}: run make page-models.")
    ldm = load_ldm(found.checkpoint, backend="core", device="cpu")
    decoded = torch.cat([decode(ldm.vqgan, encode(ldm.vqgan, it)) for it in images.split(8)])
    point = point_of(images, decoded, iteration=ITERATIONS[dims][0], cpu_s=0)
    print(
        f"{dims}D: {point.psnr_db:.1f} dB, {point.mean_error_hu:.0f} HU mean error, "
        f"{point.hu_wasserstein:.1f} HU-Wasserstein"
    )
    shown = NUM_SHOWN[dims]
    samples = sampled(ldm.spec, ldm.unet, ldm.vqgan, ldm.latent_scale)
    picture([images[:shown], decoded[:shown], samples]).save(path)


def picture(rows: list[Tensor]) -> Image.Image:
    """Returns the sheets of several sets of images ``(N, 1, *S)``, one below the other."""
    sheets = [contact_sheet(hu_from_network(images)) for images in rows]
    whole = Image.new("L", (max(it.width for it in sheets), sum(it.height for it in sheets)))
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole


def main() -> None:
    """Trains, prints the curve as rows of a table, and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dims", type=int, default=2, choices=(2, 3))
    parser.add_argument("--autoencoder", default=VQ, choices=AUTOENCODERS)
    parser.add_argument("--iterations", type=int, help="Of the autoencoder.")
    parser.add_argument("--unet-iterations", type=int, help="Of the UNet; 0: no samples.")
    parser.add_argument("--picture", type=Path, help="PNG: real, reconstructed, sampled.")
    parser.add_argument("--store", type=Path, help="Folder of make page-models: trains nothing.")
    parser.add_argument("--phantoms", type=int, default=NUM_PHANTOMS, help="Of the data set.")
    given = parser.parse_args()
    if given.store is not None and given.picture is None:
        parser.error("--store draws a picture: give --picture.")
    torch.set_num_threads(1)
    usual_vqgan, usual_unet = ITERATIONS[given.dims]
    size = DEFAULT_SIZE_BY_DIMS[given.dims]
    spec = ModelSpec(given.dims, size, "tiny", autoencoder=given.autoencoder)
    data = DataSpec(PHANTOM, spec.size, num_phantoms=given.phantoms)
    scans, held_out = open_scans(data).split(HELD_OUT_FRACTION)
    num_epochs = NUM_HELD_OUT_EPOCHS[given.dims]
    images = torch.stack([image for epoch in range(num_epochs) for image in held_out.images(epoch)])
    if given.store is not None:
        show_trained(given.store, given.dims, images, given.picture)
        return
    training = started(spec, usual_vqgan if given.iterations is None else given.iterations)
    print("| iterations | CPU s | PSNR, dB | mean error, HU | HU-Wasserstein |")
    print("|---:|---:|---:|---:|---:|")
    for point in curve(training, scans, images):
        print(
            f"| {point.iteration} | {point.cpu_s:.0f} | {point.psnr_db:.1f} "
            f"| {point.mean_error_hu:.0f} | {point.hu_wasserstein:.1f} |",
            flush=True,
        )
    if given.picture is None:
        return
    shown = images[: NUM_SHOWN[given.dims]]
    rows = [shown, reconstructed(training, shown)]
    unet_iterations = usual_unet if given.unet_iterations is None else given.unet_iterations
    if unet_iterations:
        rows.append(samples(training, spec, scans, iterations=unet_iterations))
    picture(rows).save(given.picture)


if __name__ == "__main__":
    main()
