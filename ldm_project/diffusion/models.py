"""Builds the networks of a latent diffusion model with either MONAI core or monai-generative."""

import re
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from monai.networks.nets.patchgan_discriminator import PatchDiscriminator
from monai.networks.nets.vqvae import VQVAE
from torch import Tensor, nn

from ldm_project.config import AUTOENCODERS, BACKENDS, DOWNSAMPLING_FACTOR, KL, VQ
from ldm_project.diffusion.autoencoders import (
    OwnAutoencoder,
    ResidualKl,
    ResidualVqgan,
    ResidualWidths,
)
from ldm_project.errors import InvalidInputError
from ldm_project.parsing import check_size, resolve_preset
from ldm_project.presets import STRIDED, ModelPreset
from ldm_project.settings import RunSettings

IMAGE_CHANNELS = 1
# Group normalisation over single channels would erase the brightness of a latent.
MIN_CHANNELS_PER_GROUP = 4
MAX_NORM_GROUPS = 32


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to rebuild both networks of an LDM.

    ``preset`` holds the widths for ``model_size``; ``None`` takes the current ones. A checkpoint
    keeps its widths, so it can still be loaded after a preset has changed. ``autoencoder`` is
    ``vq`` or ``kl``; checkpoints of before there was a choice lack it, and are ``vq``.
    """

    dims: int
    size: tuple[int, ...]
    model_size: str
    preset: ModelPreset | None = None
    autoencoder: str = VQ

    def __post_init__(self) -> None:
        """Checks the size and the autoencoder, and fills in the preset.

        Raises:
            InvalidInputError: the preset or the autoencoder is unknown, or the networks cannot
                halve the size.
        """
        check_size(tuple(self.size), self.dims, self.model_size)
        if self.preset is None:
            object.__setattr__(self, "preset", resolve_preset(self.model_size))
        if self.autoencoder not in AUTOENCODERS:
            raise InvalidInputError(
                f"autoencoder is {self.autoencoder!r}; use one of {', '.join(AUTOENCODERS)}."
            )
        if self.autoencoder == KL and self.widths.autoencoder == STRIDED:
            raise InvalidInputError(
                f"autoencoder is {KL!r}, but strided blocks, of release 0.1.0, have none; use {VQ}."
            )

    @property
    def widths(self) -> ModelPreset:
        """Returns the widths of the networks."""
        assert self.preset is not None  # filled in above
        return self.preset

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Channels and spatial axes of one latent, ``(C, *S)``."""
        return (self.widths.latent_channels, *(axis // DOWNSAMPLING_FACTOR for axis in self.size))

    @property
    def coarsest_shape(self) -> tuple[int, ...]:
        """Spatial axes of the UNet's last level."""
        num_halvings = len(self.widths.unet_channels) - 1
        return tuple(axis // 2**num_halvings for axis in self.latent_shape[1:])

    def to_dict(self) -> dict[str, Any]:
        """Returns the spec as a dictionary that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelSpec":
        """Returns the spec of a dictionary from ``to_dict``.

        Raises:
            KeyError, TypeError, ValueError: the values do not describe a spec.
            InvalidInputError: the values describe a spec that cannot be built.
        """
        widths: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values["preset"].items()
        }
        return cls(
            dims=int(values["dims"]),
            size=tuple(int(axis) for axis in values["size"]),
            model_size=str(values["model_size"]),
            preset=ModelPreset(**widths),
            autoencoder=values.get("autoencoder", VQ),
        )


@dataclass(frozen=True)
class PublishedSpec(ModelSpec):
    """The shapes of another project's networks, which are never rebuilt from it."""

    published_latent_shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Checks nothing: its loader has."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Channels and spatial axes of one latent, ``(C, *S)``."""
        return self.published_latent_shape


def spec_of(settings: RunSettings) -> ModelSpec:
    """Returns the spec of the networks of a command."""
    return ModelSpec(
        settings.dims, settings.size, settings.model_size, autoencoder=settings.autoencoder
    )


def build_vqgan(spec: ModelSpec, *, backend: str = "core") -> OwnAutoencoder:
    """Returns an untrained autoencoder: of ``vq``, the VQ-GAN; of ``kl``, one without codes."""
    check_backend(backend)
    widths = spec.widths
    if widths.autoencoder == STRIDED:
        return _build_strided_vqgan(spec, backend=backend)
    autoencoder_class = ResidualKl if spec.autoencoder == KL else ResidualVqgan
    return autoencoder_class(
        spec.dims,
        ResidualWidths(
            channels=widths.vqgan_channels,
            num_res_blocks=widths.vqgan_num_res_layers,
            num_norm_groups=widths.vqgan_num_norm_groups,
            latent_channels=widths.latent_channels,
            num_codes=widths.num_codes,
            num_code_groups=widths.num_code_groups,
        ),
        backend=backend,
    )


def _build_strided_vqgan(spec: ModelSpec, *, backend: str) -> VQVAE:
    """Returns the autoencoder of version 1, which older checkpoints hold: MONAI's VQ-VAE."""
    widths = spec.widths
    num_levels = len(widths.vqgan_channels)
    stride = round(DOWNSAMPLING_FACTOR ** (1 / num_levels))  # the same at each level
    kernel, dilation, padding, output_padding = 2 * stride, 1, stride // 2, 0
    downsampling = (stride, kernel, dilation, padding)
    arguments: dict[str, Any] = {
        "spatial_dims": spec.dims,
        "in_channels": IMAGE_CHANNELS,
        "out_channels": IMAGE_CHANNELS,
        "num_res_layers": widths.vqgan_num_res_layers,
        "num_res_channels": widths.vqgan_channels,
        "downsample_parameters": (downsampling,) * num_levels,
        "upsample_parameters": ((*downsampling, output_padding),) * num_levels,
        "num_embeddings": widths.num_codes,
        "embedding_dim": widths.latent_channels,
        "decay": 0.9,  # of the codebook's moving average over iterations
        "ddp_sync": False,  # one process trains the VQ-GAN, even if other processes wait
    }
    if backend == "core":
        return VQVAE(channels=widths.vqgan_channels, **arguments)
    from generative.networks.nets.vqvae import VQVAE as GenerativeVQVAE  # noqa: N811

    # Both classes have the same methods and weights, so core's type stands for both.
    return cast(VQVAE, GenerativeVQVAE(num_channels=widths.vqgan_channels, **arguments))


def build_discriminator(spec: ModelSpec) -> nn.Module:
    """Returns an untrained patch discriminator, used in training only and never stored."""
    return PatchDiscriminator(
        spatial_dims=spec.dims,
        channels=spec.widths.discriminator_channels,
        in_channels=IMAGE_CHANNELS,
        num_layers_d=spec.widths.discriminator_num_layers,
        norm="INSTANCE",  # batches are small
    )


def build_unet(spec: ModelSpec, *, backend: str = "core") -> nn.Module:
    """Returns an untrained diffusion UNet: latents and timesteps in, predicted velocity out."""
    check_backend(backend)
    widths = spec.widths
    arguments: dict[str, Any] = {
        "spatial_dims": spec.dims,
        "in_channels": widths.latent_channels,
        "out_channels": widths.latent_channels,
        "num_res_blocks": widths.unet_num_res_blocks,
        "attention_levels": widths.unet_attention_levels,
        "num_head_channels": widths.unet_num_head_channels,
        "norm_num_groups": min(MAX_NORM_GROUPS, widths.unet_channels[0] // MIN_CHANNELS_PER_GROUP),
    }
    if backend == "core":
        # monai-generative's attention has no output projection (it builds one and skips it).
        return DiffusionModelUNet(
            channels=widths.unet_channels,
            include_fc=False,
            use_flash_attention=True,
            **arguments,
        )
    from generative.networks.nets.diffusion_model_unet import (
        DiffusionModelUNet as GenerativeDiffusionModelUNet,
    )

    network: nn.Module = GenerativeDiffusionModelUNet(
        num_channels=widths.unet_channels, **arguments
    )
    for name, weight in network.named_parameters():
        weight.requires_grad_(canonical_name(name) is not None)  # unused weights never get one
    return network


def canonical_state(network: nn.Module) -> dict[str, Tensor]:
    """Returns a network's weights under MONAI core's names, whichever backend built it."""
    state = {}
    for name, tensor in network.state_dict().items():
        canonical = canonical_name(name)
        if canonical is not None:
            state[canonical] = tensor
    return state


def load_canonical_state(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Copies weights under MONAI core's names into a network of either backend.

    Raises:
        ValueError: a weight is missing, unknown, or of another shape.
    """
    own = network.state_dict()
    used = {name: canonical_name(name) for name in own}
    expected = {canonical for canonical in used.values() if canonical is not None}
    if expected != state.keys():
        different = sorted(expected ^ state.keys())
        raise ValueError(f"{len(different)} weights are missing or unknown, {different[0]} first")
    for name, canonical in used.items():
        if canonical is None:
            continue
        if own[name].shape != state[canonical].shape:
            raise ValueError(
                f"weight {canonical} has shape {tuple(state[canonical].shape)}, "
                f"not {tuple(own[name].shape)}"
            )
        own[name] = state[canonical]
    network.load_state_dict(own)


def canonical_name(name: str) -> str | None:
    """Returns MONAI core's name of a weight; ``None`` for a weight that the network never uses.

    Core's own names come back unchanged, so one rule serves both backends and both directions.
    """
    if ".proj_attn." in name:  # built by monai-generative, left out of its forward pass
        return None
    name = re.sub(r"(?<!\.attn)\.(to_[qkv])\.", r".attn.\1.", name)
    name = re.sub(r"^(decoder\.blocks\.\d+)\.conv\.conv\.", r"\1.postconv.conv.", name)
    return name.replace(".upsampler.conv.", ".upsampler.postconv.")


def num_parameters(module: nn.Module) -> int:
    """Returns the number of trainable weights."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def device_of(module: nn.Module) -> torch.device:
    """Returns the device of a network's weights."""
    return next(module.parameters()).device


def resolve_device(device: str | None) -> torch.device:
    """Returns the device with a name; ``None`` takes a GPU if this machine has one.

    Raises:
        InvalidInputError: torch knows no such device, or this machine has none.
    """
    num_gpus = torch.cuda.device_count()
    if device is None:
        return torch.device("cuda" if num_gpus else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise InvalidInputError(f"device is {device!r}; use auto, cpu, cuda or cuda:1.") from None
    if resolved.type == "cuda" and (resolved.index or 0) >= num_gpus:
        raise InvalidInputError(
            f"device is {device!r} but torch sees {num_gpus} GPUs; use device=cpu or device=auto."
        )
    return resolved


def check_backend(backend: str) -> None:
    """Checks that a backend's name is known.

    Raises:
        InvalidInputError: the name is unknown.
    """
    if backend not in BACKENDS:
        raise InvalidInputError(f"backend is {backend!r}; use one of {', '.join(BACKENDS)}.")
