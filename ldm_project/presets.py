"""Widths of the networks by model size; our own choice, since the paper prints none."""

from dataclasses import dataclass

STRIDED, RESIDUAL = "strided", "residual"  # kinds of autoencoder: of version 1, and today's


@dataclass(frozen=True)
class ModelPreset:
    """Widths of the two networks.

    Fields with a default came after version 1; the default is what its checkpoints mean.

    Attributes:
        autoencoder: the kind of the VQ-GAN's blocks.
        vqgan_num_res_layers: of each of its levels.
        vqgan_num_norm_groups: groups of channels that are normalised together; 0 in ``strided``.
        num_code_groups: groups of a latent's channels that choose a code each.
    """

    unet_channels: tuple[int, ...]
    unet_num_res_blocks: int
    unet_attention_levels: tuple[bool, ...]
    unet_num_head_channels: int
    vqgan_channels: tuple[int, ...]
    vqgan_num_res_layers: int
    latent_channels: int
    num_codes: int
    discriminator_channels: int
    discriminator_num_layers: int
    autoencoder: str = STRIDED
    vqgan_num_norm_groups: int = 0
    num_code_groups: int = 1


PRESETS = {
    "tiny": ModelPreset(
        unet_channels=(32, 64),
        unet_num_res_blocks=1,
        unet_attention_levels=(False, True),
        unet_num_head_channels=32,
        vqgan_channels=(16, 32, 64),
        vqgan_num_res_layers=1,
        latent_channels=8,
        num_codes=512,
        discriminator_channels=16,
        discriminator_num_layers=2,
        autoencoder=RESIDUAL,
        vqgan_num_norm_groups=8,
        num_code_groups=4,
    ),
    "small": ModelPreset(
        unet_channels=(64, 128, 256),
        unet_num_res_blocks=1,
        unet_attention_levels=(False, False, True),
        unet_num_head_channels=64,
        vqgan_channels=(32, 64, 128),
        vqgan_num_res_layers=2,
        latent_channels=8,
        num_codes=1024,
        discriminator_channels=32,
        discriminator_num_layers=3,
        autoencoder=RESIDUAL,
        vqgan_num_norm_groups=8,
        num_code_groups=4,
    ),
    "medium": ModelPreset(
        unet_channels=(128, 256, 512),
        unet_num_res_blocks=2,
        unet_attention_levels=(False, False, True),
        unet_num_head_channels=64,
        vqgan_channels=(32, 64, 128),
        vqgan_num_res_layers=2,
        latent_channels=8,
        num_codes=1024,
        discriminator_channels=32,
        discriminator_num_layers=3,
        autoencoder=RESIDUAL,
        vqgan_num_norm_groups=8,
        num_code_groups=4,
    ),
    "large": ModelPreset(
        unet_channels=(256, 512, 768),
        unet_num_res_blocks=2,
        unet_attention_levels=(False, True, True),
        unet_num_head_channels=64,
        vqgan_channels=(32, 64, 128),
        vqgan_num_res_layers=2,
        latent_channels=8,
        num_codes=1024,
        discriminator_channels=32,
        discriminator_num_layers=3,
        autoencoder=RESIDUAL,
        vqgan_num_norm_groups=8,
        num_code_groups=4,
    ),
}
