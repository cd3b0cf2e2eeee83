"""The kl autoencoder: MONAI's AutoencoderKL, its training, and never taken for a VQ-GAN."""

import json
from itertools import islice

import mlflow
import numpy as np
import pytest
import torch
from generative.networks.nets import AutoencoderKL as GenerativeAutoencoderKL
from mlflow import MlflowClient
from monai.networks.nets.autoencoderkl import AutoencoderKL

from ldm_project.config import (
    BACKENDS,
    KL,
    RFLOW,
    VQ,
    EstimateConfig,
    SynthConfig,
    TrainRunConfig,
    VqganRunConfig,
)
from ldm_project.diffusion.autoencoders import ResidualKl, ResidualVqgan, decode, encode
from ldm_project.diffusion.checkpoints import load_vqgan, save_vqgan
from ldm_project.diffusion.flops import cost_of, vqgan_iteration_tflop, weights_of
from ldm_project.diffusion.memory import Work, sampling_bytes
from ldm_project.diffusion.models import (
    ModelSpec,
    build_discriminator,
    build_vqgan,
    canonical_state,
    load_canonical_state,
    spec_of,
)
from ldm_project.diffusion.tiled_decoding import decode_in_tiles
from ldm_project.diffusion.training_states import load_training, save_training, take_up
from ldm_project.diffusion.vqgan_training import (
    KL_WEIGHT,
    VqganTraining,
    reconstructed,
    train_vqgan,
)
from ldm_project.errors import CheckpointError, InvalidInputError
from ldm_project.presets import PRESETS, STRIDED
from ldm_project.resolution import settings_of
from ldm_project.runs.references import ldm_name, vqgan_name
from ldm_project.runs.run_names import run_name
from ldm_project.runs.training_progress import losses_of
from tests.fakes.commands import run_command, runs_of

SPECS = {
    2: ModelSpec(2, (32, 32), "tiny", autoencoder=KL),
    3: ModelSpec(3, (16, 16, 16), "tiny", autoencoder=KL),
}
MONAI_CLASSES = {"core": AutoencoderKL, "generative": GenerativeAutoencoderKL}
SMALL = {"size": "32", "vqgan_iterations": 12, "iterations": 20}


@pytest.fixture(params=(2, 3), ids=("2d", "3d"))
def spec(request):
    torch.manual_seed(0)
    return SPECS[request.param]


def images_of(spec, num=2):
    """Returns images of one bright blob each, somewhere."""
    generator = torch.Generator().manual_seed(3)
    grid = torch.meshgrid(*(torch.linspace(-1, 1, axis) for axis in spec.size), indexing="ij")
    centres = torch.rand(num, spec.dims, generator=generator) - 0.5
    distances = [
        sum((line - at) ** 2 for line, at in zip(grid, centre, strict=True)) for centre in centres
    ]
    return 1.6 * torch.exp(-8 * torch.stack(distances).unsqueeze(1)) - 0.8


def training_of(spec, *, iterations=10, seed=0):
    torch.manual_seed(0)
    return VqganTraining(
        build_vqgan(spec), build_discriminator(spec), iterations=iterations, seed=seed
    )


def steps_of(training, spec):
    images = images_of(spec)
    return train_vqgan(training, iter(lambda: images, None))


@pytest.mark.parametrize("backend", BACKENDS)
def test_kl_computes_what_monais_own_does_from_the_same_weights(spec, backend):
    ours, widths = build_vqgan(spec, backend=backend).eval(), spec.widths
    name = {"core": "channels", "generative": "num_channels"}[backend]
    monai = MONAI_CLASSES[backend](
        spatial_dims=spec.dims,
        in_channels=1,
        out_channels=1,
        num_res_blocks=(widths.vqgan_num_res_layers,) * len(widths.vqgan_channels),
        attention_levels=(False,) * len(widths.vqgan_channels),
        latent_channels=widths.latent_channels,
        norm_num_groups=widths.vqgan_num_norm_groups,
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
        **{name: widths.vqgan_channels},
    ).eval()
    monai.load_state_dict(ours.state_dict())
    images = images_of(spec)
    with torch.inference_mode():
        mean, std = monai.encode(images)
        found_mean, log_variance = ours.posterior(images)
        assert mean.shape == (2, *spec.latent_shape)
        torch.testing.assert_close(found_mean, mean)
        torch.testing.assert_close((0.5 * log_variance).exp(), std)
        torch.testing.assert_close(encode(ours, images), mean)
        torch.testing.assert_close(decode(ours, mean), monai.decode(mean).clamp(-1, 1))
        torch.testing.assert_close(ours.encode_stage_2_inputs(images), mean)
        torch.testing.assert_close(ours.decode_stage_2_outputs(mean), monai.decode(mean))


def test_weights_of_one_backend_serve_the_other(spec):
    ours, other = (build_vqgan(spec, backend=backend).eval() for backend in BACKENDS)
    load_canonical_state(other, canonical_state(ours))
    with torch.inference_mode():
        latents = encode(ours, images_of(spec))
        torch.testing.assert_close(encode(other, images_of(spec)), latents)
        torch.testing.assert_close(decode(other, latents), decode(ours, latents))


def test_a_batch_decoded_in_parts_is_that_decoded_at_once(spec):
    autoencoder = build_vqgan(spec).eval()
    latents = torch.randn(3, *spec.latent_shape)
    with torch.inference_mode():
        in_parts = decode_in_tiles(autoencoder, latents, max_voxels=1)
        torch.testing.assert_close(in_parts, decode(autoencoder, latents))


@pytest.mark.slow
def test_costs_and_memory_of_kl_are_counted(spec):
    vq = ModelSpec(spec.dims, spec.size, spec.model_size)
    assert isinstance(build_vqgan(vq), ResidualVqgan)
    channels = spec.latent_shape[0]
    positions = spec.latent_shape[1] ** spec.dims
    # a 1x1 convolution more: each of C channels from C, at each position, two FLOP a product
    pointwise_tflop = 2 * channels**2 * positions / 1e12
    assert cost_of(spec).decode_tflop == pytest.approx(cost_of(vq).decode_tflop + pointwise_tflop)
    # three of them, with the gradients of weights and of inputs
    difference = vqgan_iteration_tflop(spec, 1) - vqgan_iteration_tflop(vq, 1)
    assert difference == pytest.approx(3 * 3 * pointwise_tflop)
    # the heads have weights and biases; codes are no trained weights
    more = weights_of(spec).vqgan - weights_of(vq).vqgan
    assert more == 3 * (channels**2 + channels)
    work = Work(batch_size=2, precision="fp32", device_type="cpu")
    assert sampling_bytes(spec, work) == pytest.approx(sampling_bytes(vq, work), rel=0.05)


@pytest.mark.slow
def test_training_joins_all_losses_but_the_codebooks(spec):
    steps = list(steps_of(training_of(spec), spec))
    shared = {"reconstruction_loss", "kl_loss"}
    joined = shared | {"spectral_loss", "histogram_loss"}
    adversarial = joined | {"adversarial_loss", "discriminator_loss"}
    expected = [shared] * 4 + [joined] * 4 + [adversarial] * 2  # from 0.4 and 0.8 of 10 on
    assert [set(losses_of(step)) for step in steps] == expected
    assert all(step.kl_loss > 0 for step in steps)


@pytest.mark.slow
def test_vq_logs_no_kl_loss(spec):
    vq = ModelSpec(spec.dims, spec.size, spec.model_size)
    *_, last = steps_of(training_of(vq), vq)
    assert "kl_loss" not in losses_of(last)
    assert "quantisation_loss" in losses_of(last)


def test_kl_loss_is_the_divergence_that_torch_computes(spec):
    training = training_of(spec)
    with torch.inference_mode():
        mean, log_variance = training.vqgan.posterior(images_of(spec))
        latents = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
        normal = torch.distributions.Normal(0.0, 1.0)
        divergence = torch.distributions.kl_divergence(latents, normal).sum() / 2  # of two images
    first = next(iter(steps_of(training, spec)))
    assert first.kl_loss == pytest.approx(KL_WEIGHT * divergence.item(), rel=1e-4)


def test_drawn_latents_follow_from_the_seed():
    spec = SPECS[2]
    first, again, other = (
        list(islice(steps_of(training_of(spec, seed=seed), spec), 3)) for seed in (0, 0, 1)
    )
    assert first == again
    assert first[0].kl_loss == other[0].kl_loss  # of the same untrained encoder
    assert first[0].reconstruction_loss != other[0].reconstruction_loss


@pytest.mark.slow
def test_interrupted_training_ends_bitwise_as_an_unbroken_one(tmp_path):
    spec = SPECS[2]
    unbroken = training_of(spec)
    steps = list(steps_of(unbroken, spec))
    first, second = training_of(spec), training_of(spec)
    before = list(islice(steps_of(first, spec), 5))
    save_training(tmp_path / "state.pt", first, {})
    take_up(second, load_training(tmp_path / "state.pt"), tmp_path / "state.pt")
    assert before + list(steps_of(second, spec)) == steps
    for name, weight in unbroken.vqgan.state_dict().items():
        assert torch.equal(second.vqgan.state_dict()[name], weight)


@pytest.mark.slow
def test_kl_learns_to_reconstruct(spec):
    training = training_of(spec, iterations=60)
    steps = list(steps_of(training, spec))
    assert steps[-1].reconstruction_loss < 0.5 * steps[0].reconstruction_loss
    images = images_of(spec)
    error = (reconstructed(training, images) - images).abs().mean().item()
    assert error < 0.5 * steps[0].reconstruction_loss
    with torch.inference_mode():  # what previews show is what a model gives
        assert torch.equal(
            reconstructed(training, images), decode(training.vqgan, encode(training.vqgan, images))
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_checkpoint_comes_back_the_same_in_either_backend(spec, tmp_path, backend):
    autoencoder = build_vqgan(spec).eval()
    save_vqgan(tmp_path / "kl", spec, autoencoder)
    found = load_vqgan(tmp_path / "kl", backend=backend, device="cpu")
    assert found.spec == spec
    with torch.inference_mode():
        latents = encode(autoencoder, images_of(spec))
        torch.testing.assert_close(encode(found.vqgan, images_of(spec)), latents)
        torch.testing.assert_close(decode(found.vqgan, latents), decode(autoencoder, latents))


def test_spec_without_the_field_is_one_of_vq():
    spec = ModelSpec(2, (32, 32), "tiny")
    values = json.loads(json.dumps(spec.to_dict()))
    assert values.pop("autoencoder") == VQ
    assert ModelSpec.from_dict(values) == spec


def test_unknown_autoencoder_is_refused(tmp_path):
    spec = ModelSpec(2, (32, 32), "tiny")
    save_vqgan(tmp_path / "vq", spec, build_vqgan(spec))
    path = tmp_path / "vq" / "config.json"
    config = json.loads(path.read_text())
    config["spec"]["autoencoder"] = "gan"
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="autoencoder is 'gan'; use one of vq, kl"):
        load_vqgan(tmp_path / "vq", backend="core", device="cpu")
    with pytest.raises(InvalidInputError, match="autoencoder is 'gan'; use one of vq, kl"):
        settings_of(VqganRunConfig(autoencoder="gan"))


def test_strided_blocks_have_no_kl():
    widths = PRESETS["tiny"]
    strided = type(widths)(**{**vars(widths), "autoencoder": STRIDED})
    with pytest.raises(InvalidInputError, match="autoencoder is 'kl', but strided blocks"):
        ModelSpec(2, (32, 32), "tiny", strided, KL)


def test_names_tell_the_two_apart():
    assert vqgan_name(settings_of(VqganRunConfig())) == "vqgan-ct-2d-64-tiny"
    assert vqgan_name(settings_of(VqganRunConfig(autoencoder=KL))) == "kl-ct-2d-64-tiny"
    assert ldm_name(settings_of(TrainRunConfig())) == "ldm-ct-2d-64-tiny"
    assert ldm_name(settings_of(TrainRunConfig(autoencoder=KL))) == "ldm-ct-2d-64-tiny-kl"
    both = settings_of(TrainRunConfig(autoencoder=KL, objective=RFLOW))
    assert ldm_name(both) == "ldm-ct-2d-64-tiny-kl-rflow"
    assert run_name(both) == "train 2D 64² kl rflow 500 iterations seed 0"


def test_choice_reaches_every_network_of_a_command():
    synth = settings_of(SynthConfig(autoencoder=KL))
    found = (synth, synth.training, synth.training.vqgan_training)
    assert [spec_of(settings).autoencoder for settings in found] == [KL] * 3
    assert isinstance(build_vqgan(spec_of(settings_of(EstimateConfig(autoencoder=KL)))), ResidualKl)


@pytest.mark.slow
def test_kl_is_trained_sampled_and_never_taken_for_vq(store):
    """A VQ-GAN and its LDM are there, and ``auto`` passes them by."""
    run_command(SynthConfig(**SMALL, num_samples="2", steps=2))
    run_command(TrainRunConfig(**SMALL, autoencoder=KL))
    run_command(SynthConfig(**SMALL, autoencoder=KL, num_samples="2", steps=2))
    # one of each: the second synth has taken the model of the training before it
    versions = {it.name: it.version for it in MlflowClient().search_model_versions()}
    vqgan, ldm = "vqgan-ct-2d-32-tiny", "ldm-ct-2d-32-tiny"
    assert versions == dict.fromkeys((vqgan, ldm, "kl-ct-2d-32-tiny", f"{ldm}-kl"), 1)
    last = {run.info.run_name: run.data.metrics for run in reversed(runs_of("vqgan"))}
    vq, kl = (last[f"vqgan 2D 32²{kind} 12 iterations seed 0"] for kind in ("", " kl"))
    assert kl["kl_loss"] > 0
    assert "kl_loss" not in vq
    assert vq["quantisation_loss"] > 0
    assert "quantisation_loss" not in kl

    images = np.zeros((1, 1, 32, 32), dtype=np.float32)
    reconstruct = mlflow.pyfunc.load_model("models:/kl-ct-2d-32-tiny/1")
    assert reconstruct.predict(images).shape == images.shape
    taken_for_vq = "has the autoencoder kl, not vq; pass autoencoder=kl"
    with pytest.raises(CheckpointError, match=taken_for_vq):
        run_command(TrainRunConfig(**SMALL, vqgan="models:/kl-ct-2d-32-tiny/1"))
    with pytest.raises(CheckpointError, match=taken_for_vq):
        run_command(SynthConfig(**SMALL, model=f"models:/{ldm}-kl/1", num_samples="2", steps=2))
    with pytest.raises(
        CheckpointError, match="has the autoencoder vq, not kl; pass autoencoder=vq"
    ):
        run_command(TrainRunConfig(**SMALL, vqgan=f"models:/{vqgan}/1", autoencoder=KL))
