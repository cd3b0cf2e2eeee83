"""Training: stages come in order, losses fall, divergence is told, and samples look like data."""

import math
from itertools import islice

import pytest
import torch
from monai.losses.spectral_loss import JukeboxLoss
from scipy.stats import wasserstein_distance

from ldm_project.config import (
    DEFAULT_BATCH_SIZE_BY_DIMS,
    DEFAULT_SIZE_BY_DIMS,
    DEFAULT_VQGAN_BATCH_SIZE_BY_DIMS,
    HELD_OUT_FRACTION,
    MAX_SLICE_EPOCHS,
    PHANTOM,
    TrainConfig,
)
from ldm_project.ct.data import DataSpec, batches, open_scans
from ldm_project.ct.hounsfield import hu_from_network
from ldm_project.diffusion.acceleration import resolve_vqgan_precision
from ldm_project.diffusion.autoencoders import encode, nearest_codes, vectors_of
from ldm_project.diffusion.diffusion_training import (
    DiffusionTraining,
    spread_timesteps,
    train_diffusion,
)
from ldm_project.diffusion.latents import Latents, encode_latents
from ldm_project.diffusion.models import ModelSpec, build_discriminator, build_unet, build_vqgan
from ldm_project.diffusion.optimisation import learning_rate_factor
from ldm_project.diffusion.sampling import decode_samples, denoise, initial_noise
from ldm_project.diffusion.vqgan_training import (
    VQGAN_LEARNING_RATE_BY_DIMS,
    VqganTraining,
    _spectral_loss,
    train_vqgan,
)
from ldm_project.errors import InvalidInputError

SPECS = {2: ModelSpec(2, (32, 32), "tiny"), 3: ModelSpec(3, (16, 16, 16), "tiny")}


@pytest.fixture(params=(2, 3), ids=("2d", "3d"))
def spec(request):
    torch.manual_seed(0)
    return SPECS[request.param]


def blobs(spec):
    """Yields for ever four images of one bright blob each, somewhere."""
    generator = torch.Generator().manual_seed(3)
    grid = torch.meshgrid(*(torch.linspace(-1, 1, axis) for axis in spec.size), indexing="ij")
    while True:
        centres = torch.rand(4, spec.dims, generator=generator) - 0.5
        distances = [
            sum((line - at) ** 2 for line, at in zip(grid, centre, strict=True))
            for centre in centres
        ]
        yield 1.6 * torch.exp(-8 * torch.stack(distances).unsqueeze(1)) - 0.8


def random_latents(spec, num=64):
    return Latents(torch.randn(num, *spec.latent_shape), scale=1.0)


def trained_diffusion(spec, latents, *, iterations, batch_size, seed=0, loss="absolute"):
    """Trains a new UNet; returns what train_diffusion yields."""
    training = DiffusionTraining(build_unet(spec), iterations=iterations, loss=loss)
    return train_diffusion(training, latents, batch_size=batch_size, seed=seed)


def weights_of(network):
    return torch.cat([weight.detach().flatten().clone() for weight in network.parameters()])


@pytest.mark.slow
def test_vqgan_learns_to_reconstruct(spec):
    vqgan, discriminator = build_vqgan(spec), build_discriminator(spec)
    steps = list(train_vqgan(VqganTraining(vqgan, discriminator, iterations=40), blobs(spec)))
    assert [step.iteration for step in steps] == list(range(1, 41))
    assert steps[-1].reconstruction_loss < 0.5 * steps[0].reconstruction_loss


@pytest.mark.slow
def test_quantiser_joins_after_two_fifths_and_discriminator_after_four(spec):
    vqgan, discriminator = build_vqgan(spec), build_discriminator(spec)
    steps = list(train_vqgan(VqganTraining(vqgan, discriminator, iterations=10), blobs(spec)))
    for name, num_before in (
        ("quantisation_loss", 4),
        ("histogram_loss", 4),
        ("adversarial_loss", 8),
        ("discriminator_loss", 8),
    ):
        losses = [getattr(step, name) for step in steps]
        assert losses[:num_before] == [None] * num_before  # nothing was lost yet: no figure
        assert min(losses[num_before:]) > 0


@pytest.mark.slow
def test_spectral_loss_is_monais_and_has_a_gradient_where_an_amplitude_is_0():
    torch.manual_seed(0)
    images, reconstructed = torch.randn(2, 3, 1, 8, 8)
    theirs = JukeboxLoss(spatial_dims=2)(reconstructed, images)
    torch.testing.assert_close(_spectral_loss(reconstructed, images), theirs)
    flat = torch.full((3, 1, 8, 8), 0.25, requires_grad=True)  # of which 63 amplitudes are 0
    _spectral_loss(flat, images).backward()
    assert torch.isfinite(flat.grad).all()
    assert flat.grad.any()


@pytest.mark.slow
def test_spectral_loss_joins_with_the_quantiser_and_reaches_the_vqgan(spec):
    """Two VQ-GANs alike but for how much their spectra count."""
    halfway, trained = [], []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        vqgan, discriminator = build_vqgan(spec), build_discriminator(spec)
        training = VqganTraining(vqgan, discriminator, iterations=10, spectral_weight=weight)
        steps = train_vqgan(training, blobs(spec))
        before = list(islice(steps, 4))
        halfway.append(weights_of(vqgan))
        after = list(steps)
        trained.append(weights_of(vqgan))
        assert [step.spectral_loss for step in before] == [None] * 4
        assert [step.spectral_loss > 0 for step in after] == [weight > 0] * 6
    assert torch.equal(*halfway)
    assert not torch.equal(*trained)


@pytest.mark.slow
def test_discriminator_learns_only_when_it_has_joined(spec):
    discriminator = build_discriminator(spec)
    start = weights_of(discriminator)
    steps = train_vqgan(VqganTraining(build_vqgan(spec), discriminator, iterations=10), blobs(spec))
    list(islice(steps, 8))
    assert torch.equal(weights_of(discriminator), start)
    list(steps)
    assert not torch.equal(weights_of(discriminator), start)


@pytest.mark.slow
def test_adversarial_loss_reaches_the_vqgan(spec):
    """Two VQ-GANs alike but for what their discriminators say part in the adversarial stage."""
    trained = []
    for judgement in (0.0, 1.0):
        torch.manual_seed(0)
        vqgan, discriminator = build_vqgan(spec), build_discriminator(spec)
        with torch.no_grad():
            discriminator.final_conv.conv.weight.mul_(1 + 100 * judgement)
        steps = train_vqgan(VqganTraining(vqgan, discriminator, iterations=10), blobs(spec))
        list(islice(steps, 8))
        before = weights_of(vqgan)
        list(steps)
        trained.append((before, weights_of(vqgan)))
    assert torch.equal(trained[0][0], trained[1][0])
    assert not torch.equal(trained[0][1], trained[1][1])


@pytest.mark.slow
def test_codebook_is_in_use_after_training(spec):
    vqgan = build_vqgan(spec)
    training = VqganTraining(vqgan, build_discriminator(spec), iterations=20)
    list(train_vqgan(training, blobs(spec)))
    images = next(blobs(spec))
    codes = vqgan.quantizer.quantizer.embedding.weight
    indices = nearest_codes(codes, vectors_of(vqgan, encode(vqgan, images)))
    assert len(indices.unique()) > 100  # of 512


@pytest.mark.slow
def test_training_can_be_as_short_as_one_iteration(spec):
    vqgan = build_vqgan(spec)
    training = VqganTraining(vqgan, build_discriminator(spec), iterations=1)
    (step,) = train_vqgan(training, blobs(spec))
    assert step.quantisation_loss > 0
    (step,) = trained_diffusion(spec, random_latents(spec), iterations=1, batch_size=2)
    assert step.loss > 0


def test_latents_have_unit_std_and_come_back_by_their_scale(spec):
    vqgan = build_vqgan(spec)
    images = list(islice(blobs(spec), 3))
    latents = encode_latents(vqgan, images)
    scaled = latents.scaled(torch.arange(12), torch.device("cpu"))
    assert scaled.std().item() == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(scaled[:4] * latents.scale, encode(vqgan, images[0]))
    assert latents.values.shape == (12, *spec.latent_shape)


def test_encoding_leaves_the_vqgan_as_it_is(spec):
    vqgan = build_vqgan(spec).train()  # the mode in which a quantiser would move its codes
    before = {name: weight.clone() for name, weight in vqgan.state_dict().items()}
    encode_latents(vqgan, islice(blobs(spec), 2))
    assert all(torch.equal(before[name], weight) for name, weight in vqgan.state_dict().items())


@pytest.mark.parametrize(
    ("loss", "expected"), [("absolute", math.sqrt(2 / math.pi)), ("squared", 1.0)]
)
def test_untrained_unet_has_the_error_of_predicting_nothing(spec, loss, expected):
    """MONAI's UNet starts at zero output, and velocities of normal latents are normal.

    The mean absolute value of N(0, 1) is √(2/π) = 0.798; the mean square is 1. The error of the
    mean square of 64 latents of 512 numbers is √(2/32768) = 0.008.
    """
    latents = random_latents(spec)
    (step,) = trained_diffusion(spec, latents, iterations=1, batch_size=64, loss=loss)
    assert step.loss == pytest.approx(expected, abs=0.04)


def test_timesteps_are_one_from_each_part_of_the_schedule_and_reach_its_ends():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([spread_timesteps(4, generator) for _ in range(2000)])
    assert torch.equal(drawn // 250, torch.tensor([[0, 1, 2, 3]]).expand(2000, 4))
    assert (drawn.min().item(), drawn.max().item()) == (0, 999)
    # Uniform on 0..249: mean 124.5, its error 250/√(12 · 2000) = 1.6.
    torch.testing.assert_close(drawn[:, 0].double().mean().item(), 124.5, atol=6, rtol=0)


@pytest.mark.slow
def test_unet_learns(spec):
    latents = Latents(torch.ones(8, *spec.latent_shape), scale=1.0)
    steps = trained_diffusion(spec, latents, iterations=50, batch_size=8)
    losses = [step.loss for step in steps]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.slow
def test_diffusion_training_repeats_with_its_seed_and_differs_with_another(spec):
    def losses(seed):
        torch.manual_seed(1)
        latents = Latents(torch.ones(8, *spec.latent_shape), scale=1.0)
        steps = trained_diffusion(spec, latents, iterations=2, batch_size=2, seed=seed)
        return [step.loss for step in steps]

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)


def test_diverging_vqgan_is_told_with_the_iteration():
    spec = SPECS[2]
    training = VqganTraining(
        build_vqgan(spec), build_discriminator(spec), iterations=50, learning_rate=1e20
    )
    steps = train_vqgan(training, blobs(spec))
    with pytest.raises(
        InvalidInputError, match=r"loss of the VQ-GAN became (nan|inf) in iteration \d+\. Lower"
    ):
        list(steps)


def test_nan_latents_are_told_with_the_iteration():
    spec = SPECS[2]
    latents = Latents(torch.full((4, *spec.latent_shape), math.nan), scale=1.0)
    steps = trained_diffusion(spec, latents, iterations=2, batch_size=2)
    with pytest.raises(InvalidInputError, match="diffusion UNet became nan in iteration 1"):
        list(steps)


def test_learning_rate_rises_then_falls_to_zero():
    factors = [learning_rate_factor(step, 400) for step in range(401)]
    assert factors[0] == pytest.approx(1 / 20, rel=0.01)
    assert factors.index(max(factors)) == 19
    assert factors[200] == pytest.approx(0.5)
    assert factors[400] == pytest.approx(0.0)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_tiny_model_beats_noise_and_the_mean_image(dims):
    """Distance: Wasserstein-1 between HU histograms, to scans that were never trained on.

    Half of the default iterations of the UNet are enough, and a third of those of the VQ-GAN; with
    an untrained UNet the samples are further off (112 HU in 2D, 119 in 3D) than the mean image (72
    and 45 HU).
    """
    size, batch_size = DEFAULT_SIZE_BY_DIMS[dims], DEFAULT_BATCH_SIZE_BY_DIMS[dims]
    scans = open_scans(DataSpec(PHANTOM, size))
    training, held_out = scans.split(HELD_OUT_FRACTION)
    spec = ModelSpec(dims, size, "tiny")
    torch.manual_seed(0)
    vqgan = build_vqgan(spec)
    vqgan_training = VqganTraining(
        vqgan,
        build_discriminator(spec),
        iterations=TrainConfig.vqgan_iterations // 3,
        learning_rate=VQGAN_LEARNING_RATE_BY_DIMS[dims],
        precision=resolve_vqgan_precision(None, torch.device("cpu"), spec),
    )
    batch_size_of_vqgan = DEFAULT_VQGAN_BATCH_SIZE_BY_DIMS[dims]
    list(train_vqgan(vqgan_training, batches(training, batch_size=batch_size_of_vqgan)))
    num_epochs = MAX_SLICE_EPOCHS if dims == 2 else 1
    num_batches = num_epochs * training.num_scans // batch_size
    images = list(islice(batches(training, batch_size=batch_size), num_batches))
    latents = encode_latents(vqgan, images)
    unet_training = DiffusionTraining(build_unet(spec), iterations=TrainConfig.iterations // 2)
    list(train_diffusion(unet_training, latents, batch_size=batch_size, seed=0))
    noise = initial_noise(spec, range(16), seed=0)
    *_, final = denoise(unet_training.averaged_unet, noise, sampler="unipc", steps=50)
    samples = decode_samples(vqgan, final.latents, latents.scale)
    real = torch.cat(list(islice(batches(held_out, batch_size=4), 16)))

    def distance(images):
        return wasserstein_distance(
            hu_from_network(real).flatten().numpy(), hu_from_network(images).flatten().numpy()
        )

    mean_image = torch.cat(images).mean(dim=0)
    assert distance(samples) < distance(mean_image)
    assert distance(samples) < 0.5 * distance(torch.rand(samples.shape) * 2 - 1)
