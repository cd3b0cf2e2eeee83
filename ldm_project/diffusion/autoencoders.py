"""The autoencoders between images and latents, the vector quantiser, and what they are used for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from monai.networks.blocks.convolutions import Convolution
from monai.networks.layers.vector_quantizer import EMAQuantizer, VectorQuantizer
from monai.networks.nets.autoencoderkl import Decoder, Encoder
from monai.networks.nets.vqvae import VQVAE
from torch import Tensor, nn

NUM_KMEANS_ROUNDS = 10
MIN_LATENT_STD = 1e-3
CODEBOOK_DECAY = 0.95  # of the codebook's moving average over iterations
COMMITMENT_WEIGHT = 0.25  # van den Oord et al. 2017 (arXiv:1711.00937), section 3.2
NORM_EPSILON = 1e-6
# A code is unused once fewer vectors than this share of an even one choose it.
UNUSED_BELOW_FRACTION = 0.05
# Of a kl latent, as in MONAI's AutoencoderKL: no standard deviation under- or overflows.
MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -30.0, 20.0


@dataclass(frozen=True)
class ResidualWidths:
    """Widths of a residual autoencoder; each level after the first halves the image."""

    channels: tuple[int, ...]
    num_res_blocks: int
    num_norm_groups: int
    latent_channels: int
    num_codes: int
    num_code_groups: int  # groups of channels that choose a code each, from one codebook


class ResidualVqgan(nn.Module):
    """A VQ-GAN of residual blocks with group normalisation: encoder, quantiser and decoder.

    Levels are halved by convolutions of stride 2, and doubled by repeating voxels before a
    convolution. The quantiser chooses a code for each group of a latent's channels: with G groups
    and K codes a latent vector can have K^G values.

    Source: Esser et al. 2021 (arXiv:2012.09841), section 3.1 and Table 7, without attention; for
        groups, Jégou et al. 2011 (Product quantization for nearest neighbor search), section II.B.
    """

    def __init__(self, dims: int, widths: ResidualWidths, *, backend: str = "core") -> None:
        super().__init__()
        self.encoder, self.decoder = _residual_coders(dims, widths, backend=backend)
        self.quantizer = VectorQuantizer(
            EMAQuantizer(
                spatial_dims=dims,
                num_embeddings=widths.num_codes,
                embedding_dim=widths.latent_channels // widths.num_code_groups,
                commitment_cost=COMMITMENT_WEIGHT,
                decay=CODEBOOK_DECAY,
                ddp_sync=False,  # one process trains the VQ-GAN, even if other processes wait
            )
        )

    def encode(self, images: Tensor) -> Tensor:
        """Returns continuous latents ``(B, C, *S / 4)`` of images ``(B, 1, *S)``."""
        latents: Tensor = self.encoder(images)
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Returns images ``(B, 1, *S)`` of latents, which are not quantised here."""
        images: Tensor = self.decoder(latents)
        return images

    def quantize(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the nearest codes and the loss that draws latents to them.

        In training mode the codes follow the latents. Gradients pass the codes unchanged.
        """
        codebook = self.quantizer.quantizer
        vectors = vectors_of(self, latents)
        indices = nearest_codes(codebook.embedding.weight, vectors)
        quantised = latents_of(F.embedding(indices, codebook.embedding.weight), latents)
        if self.training:
            _follow(codebook, vectors.detach(), indices)
        loss = COMMITMENT_WEIGHT * F.mse_loss(quantised, latents)
        return latents + (quantised - latents).detach(), loss

    def encode_stage_2_inputs(self, images: Tensor) -> Tensor:
        """Returns each latent's nearest codes, as MONAI's inferers ask."""
        return quantise(self, self.encode(images))

    def decode_stage_2_outputs(self, latents: Tensor) -> Tensor:
        """Returns images decoded from each latent's nearest codes, as MONAI's inferers ask."""
        return self.decode(quantise(self, latents))


class ResidualKl(nn.Module):
    """The encoder and decoder of ``ResidualVqgan`` around a normal distribution of latents.

    The encoder gives each latent's mean and log-variance, and nothing is quantised. Weights have
    the names that they have in MONAI's ``AutoencoderKL`` without attention.

    Source: Kingma & Welling 2014 (arXiv:1312.6114), section 2.4; as the first stage of latent
        diffusion, Rombach et al. 2022 (arXiv:2112.10752), section 3.1.
    """

    def __init__(self, dims: int, widths: ResidualWidths, *, backend: str = "core") -> None:
        super().__init__()
        self.encoder, self.decoder = _residual_coders(dims, widths, backend=backend)
        self.quant_conv_mu = _pointwise(dims, widths.latent_channels)
        self.quant_conv_log_sigma = _pointwise(dims, widths.latent_channels)
        self.post_quant_conv = _pointwise(dims, widths.latent_channels)

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and log-variance, each ``(B, C, *S / 4)``, of the latents of images."""
        features = self.encoder(images)
        log_variance = self.quant_conv_log_sigma(features)
        clamped = log_variance.clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)
        return self.quant_conv_mu(features), clamped

    def encode(self, images: Tensor) -> Tensor:
        """Returns the mean latents ``(B, C, *S / 4)`` of images ``(B, 1, *S)``."""
        means: Tensor = self.quant_conv_mu(self.encoder(images))
        return means

    def decode(self, latents: Tensor) -> Tensor:
        """Returns images ``(B, 1, *S)`` of latents."""
        images: Tensor = self.decoder(self.post_quant_conv(latents))
        return images

    def encode_stage_2_inputs(self, images: Tensor) -> Tensor:
        """Returns the mean latents, as MONAI's inferers ask."""
        return self.encode(images)

    def decode_stage_2_outputs(self, latents: Tensor) -> Tensor:
        """Returns images of latents, as MONAI's inferers ask."""
        return self.decode(latents)


class PublishedAutoencoder(nn.Module):
    """Another project's autoencoder, which sees images in a range of its own.

    Args:
        network: trained.
        encode: gives the latents of images in the network's range.
        decode: gives images in the network's range of latents.
        gain: the network's value of an image is gain × ours + offset.
        offset: see ``gain``.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        encode: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Tensor],
        gain: float = 1.0,
        offset: float = 0.0,
    ) -> None:
        super().__init__()
        self.network = network
        self._encode, self._decode = encode, decode
        self._gain, self._offset = gain, offset

    def encode(self, images: Tensor) -> Tensor:
        """Returns latents of images ``(B, 1, *S)`` in [-1, 1]."""
        return self._encode(images * self._gain + self._offset)

    def decode(self, latents: Tensor) -> Tensor:
        """Returns images ``(B, 1, *S)``, in about [-1, 1], of latents."""
        return (self._decode(latents) - self._offset) / self._gain


Vqgan: TypeAlias = ResidualVqgan | VQVAE  # MONAI's own is that of version 1 of this project
OwnAutoencoder: TypeAlias = Vqgan | ResidualKl
Autoencoder: TypeAlias = OwnAutoencoder | PublishedAutoencoder


def _residual_coders(
    dims: int, widths: ResidualWidths, *, backend: str
) -> tuple[nn.Module, nn.Module]:
    """Returns an untrained encoder and decoder."""
    encoder_class, decoder_class, name = _coders(backend)
    shared: dict[str, Any] = {
        "spatial_dims": dims,
        "num_res_blocks": (widths.num_res_blocks,) * len(widths.channels),
        "norm_num_groups": widths.num_norm_groups,
        "norm_eps": NORM_EPSILON,
        "attention_levels": (False,) * len(widths.channels),
        "with_nonlocal_attn": False,
        name: widths.channels,
    }
    return (
        encoder_class(in_channels=1, out_channels=widths.latent_channels, **shared),
        decoder_class(in_channels=widths.latent_channels, out_channels=1, **shared),
    )


def _pointwise(dims: int, num_channels: int) -> nn.Module:
    """Returns a convolution that mixes the channels of each position."""
    return Convolution(
        spatial_dims=dims,
        in_channels=num_channels,
        out_channels=num_channels,
        kernel_size=1,
        padding=0,
        conv_only=True,
    )


def _coders(backend: str) -> tuple[type[nn.Module], type[nn.Module], str]:
    """Returns the classes of encoder and decoder, and how they name their channels."""
    if backend == "core":
        return Encoder, Decoder, "channels"
    from generative.networks.nets import autoencoderkl

    return autoencoderkl.Encoder, autoencoderkl.Decoder, "num_channels"


def encode(vqgan: Autoencoder, images: Tensor) -> Tensor:
    """Returns continuous latents ``(B, C, *S / 4)`` of images ``(B, 1, *S)``.

    They are a VQ-GAN's before quantisation, and the means of a ``kl`` autoencoder.
    """
    return vqgan.encode(images.to(next(vqgan.parameters()).device))


def decode(vqgan: Autoencoder, latents: Tensor) -> Tensor:
    """Returns images ``(B, 1, *S)`` in [-1, 1]; a VQ-GAN's from each latent's nearest code."""
    # A published autoencoder quantises by itself, if it does.
    if isinstance(vqgan, ResidualKl | PublishedAutoencoder):
        return vqgan.decode(latents).clamp(-1.0, 1.0)
    return vqgan.decode(quantise(vqgan, latents)).clamp(-1.0, 1.0)


def quantise(vqgan: Vqgan, latents: Tensor) -> Tensor:
    """Returns the nearest code to each latent vector; never updates the codebook."""
    codes = vqgan.quantizer.quantizer.embedding.weight
    return latents_of(F.embedding(nearest_codes(codes, vectors_of(vqgan, latents)), codes), latents)


def vectors_of(vqgan: Vqgan, latents: Tensor) -> Tensor:
    """Returns the vectors ``(N, D)`` that choose a code each, of latents ``(B, C, *S)``."""
    length = vqgan.quantizer.quantizer.embedding_dim
    return latents.float().movedim(1, -1).reshape(-1, length)


def latents_of(vectors: Tensor, like: Tensor) -> Tensor:
    """Returns vectors from ``vectors_of`` as latents of the shape that they had."""
    batch_size, num_channels, *axes = like.shape
    return vectors.reshape(batch_size, *axes, num_channels).movedim(-1, 1).contiguous()


@torch.no_grad()
def nearest_codes(codes: Tensor, vectors: Tensor) -> Tensor:
    """Returns the index ``(N,)`` of the nearest of codes ``(K, D)`` to each of ``(N, D)``."""
    # |v - c|² = |v|² - 2·v·c + |c|², of which |v|² is the same for every code.
    return torch.addmm(codes.square().sum(dim=1), vectors, codes.T, alpha=-2.0).argmin(dim=1)


@torch.no_grad()
def _follow(codebook: EMAQuantizer, vectors: Tensor, indices: Tensor) -> None:
    """Moves the codes towards the mean of the vectors that chose them.

    As MONAI's quantiser does, but without its one-hot matrix of vectors times codes.

    Source: van den Oord et al. 2017 (arXiv:1711.00937), appendix A.1.
    """
    num_codes, kept = codebook.num_embeddings, codebook.decay
    counts = torch.bincount(indices, minlength=num_codes).float()
    sums = torch.zeros_like(codebook.ema_w).index_add_(0, indices, vectors)
    codebook.ema_cluster_size.mul_(kept).add_(counts, alpha=1 - kept)
    codebook.ema_w.mul_(kept).add_(sums, alpha=1 - kept)
    total, epsilon = codebook.ema_cluster_size.sum(), codebook.epsilon
    smoothed = (codebook.ema_cluster_size + epsilon) / (total + num_codes * epsilon) * total
    codebook.embedding.weight.copy_(codebook.ema_w / smoothed.unsqueeze(1))


@torch.no_grad()
def restart_unused_codes(vqgan: Vqgan, latents: Tensor, generator: torch.Generator) -> int:
    """Moves each unused code to a random vector of the latents; returns how many were moved."""
    codebook = vqgan.quantizer.quantizer
    sizes = codebook.ema_cluster_size
    unused = (sizes < UNUSED_BELOW_FRACTION * sizes.mean()).nonzero().flatten()
    vectors = vectors_of(vqgan, latents)
    chosen = torch.randint(len(vectors), (len(unused),), generator=generator).to(vectors.device)
    codebook.embedding.weight[unused] = vectors[chosen]
    codebook.ema_w[unused] = vectors[chosen] * sizes.mean()
    sizes[unused] = sizes.mean()
    return len(unused)


@torch.no_grad()
def standardise_latents(vqgan: Vqgan, latents: Tensor) -> Tensor:
    """Rescales a VQ-GAN so that these latents get mean 0 and std 1 per channel; returns them.

    Rescales the encoder's last convolution in place, and the decoder's first one by the inverse
    (exact except for its zero padding). Latents are ``(B, C, *S)``. Diffusion needs such a scale.
    """
    axes = (0, *range(2, latents.ndim))
    mean, std = latents.mean(axes), latents.std(axes).clamp(min=MIN_LATENT_STD)
    per_channel = (1, -1, *[1] * (latents.ndim - 2))
    standardised = (latents - mean.view(per_channel)) / std.view(per_channel)
    last: Any = cast(Any, vqgan.encoder).blocks[-1].conv  # a convolution of either dimension
    first: Any = cast(Any, vqgan.decoder).blocks[0].conv
    last.weight.div_(std.view(-1, *[1] * (last.weight.ndim - 1)))
    last.bias.sub_(mean).div_(std)
    first.bias.add_(first.weight.flatten(start_dim=2).sum(dim=2) @ mean)
    first.weight.mul_(std.view(per_channel))
    return standardised


@torch.no_grad()
def start_codebook(vqgan: Vqgan, latents: Tensor) -> None:
    """Places the codes among the latents ``(B, C, *S)``, by k-means.

    A codebook that starts elsewhere stays unused: hardly any code is ever the nearest.
    """
    codebook = vqgan.quantizer.quantizer
    vectors = vectors_of(vqgan, latents)
    # Start from evenly spaced vectors, repeated if there are fewer vectors than codes.
    spread = torch.linspace(0, len(vectors) - 1, codebook.num_embeddings, device=vectors.device)
    codes = vectors[spread.round().long()]
    counts = torch.ones(len(codes), device=vectors.device)
    for _ in range(NUM_KMEANS_ROUNDS):
        nearest = nearest_codes(codes, vectors)
        counts = torch.bincount(nearest, minlength=len(codes)).float()
        sums = torch.zeros_like(codes).index_add_(0, nearest, vectors)
        codes = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), codes)
    codebook.embedding.weight.copy_(codes)
    codebook.ema_w.copy_(codes)
    codebook.ema_cluster_size.fill_(1.0)
