"""What a training shows of itself: the same by however few held-out images fit a device."""

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from ldm_project.ct.data import DataSpec, open_scans
from ldm_project.diffusion.checkpoints import LdmCheckpoint
from ldm_project.diffusion.diffusion_training import DiffusionTraining
from ldm_project.diffusion.models import ModelSpec, build_discriminator, build_unet, build_vqgan
from ldm_project.diffusion.vqgan_training import VqganTraining
from ldm_project.runs.training_previews import VALIDATION_LOSS, LdmPreview, VqganPreview

SPEC = ModelSpec(3, (16, 16, 16), "tiny")
NUM_POSITIONS = 4**3  # of one latent


def previewed(*, num_fitting, monkeypatch):
    """Returns the held-out losses of both networks, and the largest batch that either was given."""
    monkeypatch.setattr("ldm_project.parsing.MAX_LATENT_POSITIONS", num_fitting * NUM_POSITIONS)
    torch.manual_seed(0)
    vqgan, unet = build_vqgan(SPEC), build_unet(SPEC)
    held_out = open_scans(DataSpec("phantom", SPEC.size, num_phantoms=5))
    vqgan_training = VqganTraining(vqgan, build_discriminator(SPEC), iterations=10)
    training = DiffusionTraining(unet, iterations=10)
    sizes = []
    for network in (vqgan.encoder, vqgan.decoder, training.averaged_unet):
        network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    losses = []
    with mlflow.start_run() as run:
        VqganPreview(vqgan_training, SPEC, held_out).log(1)
        losses.append(validation_loss_of(run))
        ldm = LdmCheckpoint(SPEC, training.averaged_unet, vqgan, 1.0, "diffusion")
        LdmPreview(training, ldm, held_out, seed=0).log(2)
        losses.append(validation_loss_of(run))
    return losses, max(sizes)


def validation_loss_of(run):
    return MlflowClient().get_run(run.info.run_id).data.metrics[VALIDATION_LOSS]


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_held_out_images_are_judged_no_more_at_once_than_fit(monkeypatch):
    all_at_once, largest = previewed(num_fitting=5, monkeypatch=monkeypatch)
    assert largest == 5
    in_parts, largest = previewed(num_fitting=2, monkeypatch=monkeypatch)
    assert largest == 2
    assert in_parts == pytest.approx(all_at_once, rel=1e-5)
