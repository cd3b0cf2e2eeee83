"""Widths of the networks by model size; our own choice, since the paper prints none."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelPreset:
    """Widths of the two networks."""

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


PRESETS = {
    "tiny": ModelPreset(
        unet_channels=(32, 64),
        unet_num_res_blocks=1,
        unet_attention_levels=(False, True),
        unet_num_head_channels=32,
        vqgan_channels=(64,),
        vqgan_num_res_layers=1,
        latent_channels=4,
        num_codes=256,
        discriminator_channels=16,
        discriminator_num_layers=2,
    ),
    "small": ModelPreset(
        unet_channels=(64, 128, 256),
        unet_num_res_blocks=1,
        unet_attention_levels=(False, False, True),
        unet_num_head_channels=64,
        vqgan_channels=(64, 128),
        vqgan_num_res_layers=2,
        latent_channels=8,
        num_codes=1024,
        discriminator_channels=32,
        discriminator_num_layers=3,
    ),
    "medium": ModelPreset(
        unet_channels=(128, 256, 512),
        unet_num_res_blocks=2,
        unet_attention_levels=(False, False, True),
        unet_num_head_channels=64,
        vqgan_channels=(64, 128),
        vqgan_num_res_layers=2,
        latent_channels=8,
        num_codes=1024,
        discriminator_channels=32,
        discriminator_num_layers=3,
    ),
    "large": ModelPreset(
        unet_channels=(256, 512, 768),
        unet_num_res_blocks=2,
        unet_attention_levels=(False, True, True),
        unet_num_head_channels=64,
        vqgan_channels=(64, 128),
        vqgan_num_res_layers=2,
        latent_channels=8,
        num_codes=1024,
        discriminator_channels=32,
        discriminator_num_layers=3,
    ),
}
