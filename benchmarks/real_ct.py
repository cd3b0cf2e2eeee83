"""Trains 2D and 3D models on one real CT, and shows real, reconstructed and sampled images.

Downloads the scan at first use. `python -m benchmarks.real_ct --picture docs/pictures/real_ct.png`
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
import mlflow
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks.packaged_ct import packaged_ct
from ldm_project.config import SQUARED, TrainRunConfig
from ldm_project.ct.data import DataSpec, open_scans
from ldm_project.ct.hounsfield import hu_from_network, network_from_hu
from ldm_project.ct.images import contact_sheet
from ldm_project.diffusion.autoencoders import decode, encode
from ldm_project.diffusion.checkpoints import LdmCheckpoint, load_ldm
from ldm_project.diffusion.sampling import decode_samples, denoise, initial_noise
from ldm_project.resolution import train_settings
from ldm_project.runs.commands import run_command
from ldm_project.runs.references import model_at

STEPS = 50  # denoising steps of an image
SAMPLER = "dpmpp_sde"
VQGAN_ITERATIONS_BY_DIMS = {2: 2000, 3: 3000}
UNET_ITERATIONS_BY_DIMS = {2: 4000, 3: 4000}
NUM_SHOWN_BY_DIMS = {2: 4, 3: 1}
ROWS = ("real", "reconstructed", "sampled")
LABEL_WIDTH = 100  # pixels
# One chest, 360 mm of it in 2D; in 3D 320 mm along each axis, learned from in patches of 160 mm.
DATA_BY_DIMS = {
    2: {"size": "64", "spacing_mm": "5.625x5.625x2.5"},
    3: {"size": "48", "spacing_mm": "6.667", "patch_size": "24", "batch_size": "4"},
}


@dataclass(frozen=True)
class Shown:
    """Images ``(N, 1, *S)`` in HU of each kind, in the same order where they belong together."""

    real: Tensor
    reconstructed: Tensor
    sampled: Tensor

    @property
    def error_hu(self) -> float:
        """The mean absolute error of the reconstructions, in HU."""
        return (self.real.clamp(-1000, 1000) - self.reconstructed).abs().mean().item()


@click.command()
@click.option("--picture", type=click.Path(path_type=Path), required=True, help="PNG to write.")
@click.option("--times", default=1.0, show_default=True, help="Trains this many times as long.")
def main(picture: Path, times: float) -> None:
    """Train on slices and on patches of one volume, and write the picture."""
    chest = packaged_ct().chest
    sheets = []
    with tempfile.TemporaryDirectory() as store:
        mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
        mlflow.set_experiment(experiment_id=_experiment(Path(store)))
        for dims, data in DATA_BY_DIMS.items():
            config = TrainRunConfig(
                dims=dims,
                data=str(chest),
                vqgan_iterations=round(times * VQGAN_ITERATIONS_BY_DIMS[dims]),
                iterations=round(times * UNET_ITERATIONS_BY_DIMS[dims]),
                loss=SQUARED,
                **data,
            )
            shown = _trained_images(config)
            click.echo(f"{dims}D: mean error of reconstructions {shown.error_hu:.0f} HU")
            sheets.append(_sheet(shown))
    _above_each_other(sheets).save(picture)


def _experiment(folder: Path) -> str:
    artifacts = (folder / "artifacts").as_uri()
    return mlflow.create_experiment("real CT", artifact_location=artifacts)


def _trained_images(config: TrainRunConfig) -> Shown:
    run_command(train_settings(config))
    name = f"models:/ldm-ct-{config.dims}d-{config.size}-{config.model_size}/1"
    reference = model_at(name, "ldm")
    ldm = load_ldm(
        reference.checkpoint, backend=config.backend, device=None, digests=reference.digests
    )
    settings = train_settings(config)
    spec = DataSpec(
        settings.data, settings.size, settings.slice_axis, settings.spacing_mm, settings.seed
    )
    (scan,) = open_scans(spec).scans
    number = NUM_SHOWN_BY_DIMS[config.dims]
    real = torch.stack([scan.image_hu(epoch) for epoch in range(number)])
    return Shown(real, _reconstructed(ldm, real), _sampled(ldm, number))


@torch.inference_mode()
def _reconstructed(ldm: LdmCheckpoint, real_hu: Tensor) -> Tensor:
    return hu_from_network(decode(ldm.vqgan, encode(ldm.vqgan, network_from_hu(real_hu)))).cpu()


def _sampled(ldm: LdmCheckpoint, number: int) -> Tensor:
    noise = initial_noise(ldm.spec, range(number), seed=0)
    *_, final = denoise(ldm.unet, noise, sampler=SAMPLER, steps=STEPS)
    return hu_from_network(decode_samples(ldm.vqgan, final.latents, ldm.latent_scale)).cpu()


def _sheet(shown: Shown) -> Image.Image:
    """Returns a picture of three rows with their names: real, reconstructed and sampled images."""
    images = contact_sheet(torch.cat([shown.real, shown.reconstructed, shown.sampled]))
    sheet = Image.new("L", (images.width + LABEL_WIDTH, images.height), color=40)
    sheet.paste(images, (LABEL_WIDTH, 0))
    draw = ImageDraw.Draw(sheet)
    height = images.height / len(ROWS)
    for row, name in enumerate(ROWS):
        draw.text((8, round((row + 0.5) * height)), name, fill=220)
    return sheet


def _above_each_other(sheets: list[Image.Image]) -> Image.Image:
    size = max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)
    picture, top = Image.new("L", size, color=40), 0
    for sheet in sheets:
        picture.paste(sheet, (0, top))
        top += sheet.height
    return picture


if __name__ == "__main__":
    main()
