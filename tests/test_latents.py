"""Latents kept in a file: encoded once, and trained on to the same bits as those in memory."""

from itertools import islice

import pytest
import torch

from ldm_project.array_files import is_whole
from ldm_project.config import TrainRunConfig
from ldm_project.ct.data import DataSpec, batches, open_scans
from ldm_project.diffusion.diffusion_training import DiffusionTraining, train_diffusion
from ldm_project.diffusion.latents import (
    encode_latents,
    keep_latents,
    open_latents,
)
from ldm_project.diffusion.models import ModelSpec, build_unet, build_vqgan
from ldm_project.diffusion.weights_digest import weights_digest
from ldm_project.resolution import train_settings
from ldm_project.runs.training_latents import latents_file
from tests.fakes.commands import run_command, runs_of

SPECS = {2: ModelSpec(2, (32, 32), "tiny"), 3: ModelSpec(3, (16, 16, 16), "tiny")}


@pytest.fixture(params=(2, 3), ids=("2d", "3d"))
def spec(request):
    torch.manual_seed(0)
    return SPECS[request.param]


def images_of(spec):
    """Returns three batches of two phantoms."""
    scans = open_scans(DataSpec("phantom", spec.size, num_phantoms=4))
    return islice(batches(scans, batch_size=2), 3)


def trained_weights(spec, latents):
    torch.manual_seed(1)
    training = DiffusionTraining(build_unet(spec), iterations=3)
    losses = [step.loss for step in train_diffusion(training, latents, batch_size=2, seed=5)]
    return losses, torch.cat([weight.detach().flatten() for weight in training.unet.parameters()])


@pytest.mark.slow
def test_training_on_kept_latents_is_bitwise_that_on_latents_in_memory(spec, tmp_path):
    vqgan, path = build_vqgan(spec).eval(), tmp_path / "latents.npy"
    in_memory = encode_latents(vqgan, images_of(spec))
    keep_latents(path, vqgan, images_of(spec), shape=(6, *spec.latent_shape))
    kept = open_latents(path)
    assert kept.scale == in_memory.scale
    assert torch.equal(kept.values, in_memory.values)
    losses, weights = trained_weights(spec, in_memory)
    kept_losses, kept_weights = trained_weights(spec, kept)
    assert losses == kept_losses
    assert torch.equal(weights, kept_weights)


def test_latents_that_are_missing_or_damaged_are_not_taken(tmp_path):
    vqgan, path = build_vqgan(SPECS[2]).eval(), tmp_path / "latents.npy"
    assert not is_whole(path)
    keep_latents(path, vqgan, images_of(SPECS[2]), shape=(6, *SPECS[2].latent_shape))
    assert is_whole(path)
    path.write_bytes(path.read_bytes()[:-100])
    assert not is_whole(path)


def test_vqgans_are_told_apart_by_a_single_weight():
    torch.manual_seed(0)
    one, other = build_vqgan(SPECS[2]), build_vqgan(SPECS[2])
    other.load_state_dict(one.state_dict())
    assert weights_digest(one) == weights_digest(other)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-6
    assert weights_digest(one) != weights_digest(other)


def test_file_of_latents_is_another_one_for_all_that_changes_them():
    torch.manual_seed(0)
    one, other = build_vqgan(SPECS[2]), build_vqgan(SPECS[2])

    def file(vqgan=one, *, seed=0, size=(32, 32), num_phantoms=4, **settings):
        spec = DataSpec("phantom", size, seed=seed, num_phantoms=num_phantoms)
        return latents_file(train_settings(TrainRunConfig(**settings)), vqgan, open_scans(spec))

    files = [
        file(),
        file(other),
        file(seed=1),
        file(size=(64, 64)),
        file(num_phantoms=5),
        file(batch_size="4"),
        file(iterations=2),  # fewer slices are needed
        file(backend="generative"),
    ]
    assert len(set(files)) == len(files)
    assert file(objective="rflow", size=(32, 32)) == file()  # nothing to them


@pytest.mark.slow
def test_second_training_on_a_vqgan_encodes_nothing_and_ends_the_same(store, cache):
    config = TrainRunConfig(size="32", vqgan_iterations=12, iterations=20, batch_size="2")
    for _ in range(2):
        run_command(config)
    (kept,) = (cache / "latents").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])  # damaged: encoded again
    run_command(config)
    runs = runs_of("train")
    assert sorted(run.data.tags["ldm.latents"] for run in runs) == ["cached", "encoded", "encoded"]
    assert len({run.data.metrics["loss"] for run in runs}) == 1
    run_command(TrainRunConfig(**(vars(config) | {"seed": 1})))  # other scans to train on
    assert len(list((cache / "latents").iterdir())) == 2
