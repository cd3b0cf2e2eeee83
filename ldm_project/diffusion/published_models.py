"""Loads latent diffusion models of CT as others publish them, from the folder that a user has.

Three layouts are known: MONAI's (MAISI: a JSON file with ``autoencoder_def`` and
``diffusion_unet_def``, and two files of weights), MedLoRD's (two YAML files and two files of
weights), and diffusers' (``model_index.json`` and a folder for each part; slices only).
Weights are read without running any code that a file brings.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from monai.networks.nets.autoencoderkl import AutoencoderKL
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from monai.networks.nets.vqvae import VQVAE
from torch import Tensor, nn

from ldm_project.config import DIFFUSION, RFLOW
from ldm_project.diffusion.autoencoders import PublishedAutoencoder
from ldm_project.diffusion.checkpoints import CONFIG_FILE, LdmCheckpoint
from ldm_project.diffusion.models import PublishedSpec, resolve_device
from ldm_project.diffusion.noise_schedulers import TrainedSchedule
from ldm_project.diffusion.published_parts import (
    PublishedUnet,
    constant_of,
    flow_of_monai,
    monai_flow,
    monai_schedule,
)
from ldm_project.errors import CheckpointError
from ldm_project.parsing import size_text

MONAI_NETWORKS: dict[str, type[nn.Module]] = {
    network.__name__: network
    for network in (
        AutoencoderKlMaisi,
        AutoencoderKL,
        VQVAE,
        DiffusionModelUNetMaisi,
        DiffusionModelUNet,
    )
}
DIFFUSERS_INDEX = "model_index.json"
AUTOENCODER, UNET = "autoencoder_def", "diffusion_unet_def"
# Ranges of the networks' images, as gain and offset of ours: -1 is -1000 HU, 1 is 1000 HU.
MAISI_RANGE = (0.5, 0.5)  # 0 to 1
MEDLORD_RANGE = (2 / 3, -1 / 3)  # -1 to 1 is -1000 to 2000 HU
MM_TO_MAISI = 100.0  # spacings as MAISI's UNet takes them
DEFAULT_SPACING_MM = (1.0, 1.0, 1.0)
GPU_ONLY = ("norm_float16", "use_flash_attention")
CT_CLASS = 1  # of MAISI's modalities
# What a file of weights may call the weights of each network.
UNET_KEYS = ("unet_state_dict", "diffusion")
AUTOENCODER_KEYS = ("autoencoder_state_dict", "state_dict", "model_state_dict")


def is_published(folder: Path) -> bool:
    """Returns whether a folder holds no checkpoint of this project, but may hold another's."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    try:
        return "format_version" not in json.loads((folder / CONFIG_FILE).read_text())
    except (OSError, ValueError, TypeError):
        return not (folder / CONFIG_FILE).is_file()


def load_published(
    folder: Path,
    *,
    size: tuple[int, ...],
    spacing_mm: tuple[float, ...] | None = None,
    device: str | None = None,
) -> LdmCheckpoint:
    """Returns a published latent diffusion model, ready to sample images of a size from.

    Args:
        folder: with its files.
        size: of an image; its models make any that their networks can halve.
        spacing_mm: of its voxels, for models that ask for it; ``None`` takes 1 mm.
        device: that holds it; ``None`` takes a GPU where there is one.

    Raises:
        CheckpointError: the folder has none of the known layouts, or its files do not fit them.
    """
    read = _reader_of(folder)
    try:
        ldm = read(folder, size, spacing_mm or DEFAULT_SPACING_MM)
    except CheckpointError:
        raise
    except Exception as error:  # networks raise whatever a foreign configuration provokes
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise _unsupported(folder, f"{type(error).__name__}: {reason}") from error
    target = resolve_device(device)
    for network in (ldm.unet, ldm.vqgan):
        network.to(target).eval().requires_grad_(False)
    return ldm


def _reader_of(
    folder: Path,
) -> Callable[[Path, tuple[int, ...], tuple[float, ...]], LdmCheckpoint]:
    if (folder / DIFFUSERS_INDEX).is_file():
        return _diffusers
    if _json_with(folder, AUTOENCODER, UNET) is not None:
        return _monai
    if _yaml_with(folder, "ldm") is not None:
        return _medlord
    raise _unsupported(
        folder, f"no {CONFIG_FILE}, {DIFFUSERS_INDEX}, JSON with {UNET} or YAML with ldm"
    )


def _monai(folder: Path, size: tuple[int, ...], spacing_mm: tuple[float, ...]) -> LdmCheckpoint:
    config = _json_with(folder, AUTOENCODER, UNET)
    assert config is not None  # its reader was chosen by it
    config = {name: _resolved(value, config) for name, value in config.items()}
    autoencoder, unet = _built(config[AUTOENCODER]), _built(config[UNET])
    autoencoder_file = _only_file(folder, "autoencoder", not_named="mask_generation")
    unet_file = _only_file(folder, "diff_unet")
    _fill(autoencoder, _weights_in(_read_weights(autoencoder_file), AUTOENCODER_KEYS + UNET_KEYS))
    kept = _read_weights(unet_file)
    _fill(unet, _weights_in(kept, UNET_KEYS))
    factor = float(kept.get("scale_factor", config.get("scale_factor", 1.0)))
    latent_shape = _latent_shape(config[UNET], config[AUTOENCODER]["num_channels"], size, folder)
    scheduler = config.get("noise_scheduler", {})
    is_flow = str(scheduler.get("_target_", "")).endswith("RFlowScheduler")
    arguments = {name: value for name, value in scheduler.items() if name != "_target_"}
    predict = partial(_predict_by_monai, unet, config[UNET], spacing_mm)
    return LdmCheckpoint(
        _spec(size, latent_shape),
        PublishedUnet(unet, flow_of_monai(predict) if is_flow else predict),
        _adapted(autoencoder, MAISI_RANGE),
        1 / factor,
        RFLOW if is_flow else DIFFUSION,
        monai_flow(arguments, latent_shape[1:]) if is_flow else monai_schedule(arguments),
    )


def _medlord(
    folder: Path,
    size: tuple[int, ...],
    spacing_mm: tuple[float, ...],  # noqa: ARG001  # of all readers
) -> LdmCheckpoint:
    from generative.networks import nets

    ldm = _yaml_with(folder, "ldm")
    first_stage = _yaml_with(folder, "stage1") or _yaml_with(folder, "model")
    if ldm is None or first_stage is None:
        raise _unsupported(folder, "no YAML with stage1 or model, which describes the VQ-GAN")
    shape = (first_stage.get("stage1") or first_stage["model"])["params"]
    shape = shape | {"epsilon": float(shape.get("epsilon", 1e-5))}  # YAML reads 1e-5 as text
    autoencoder = nets.VQVAE(**shape)
    unet_shape = ldm["ldm"]["params"] | {"use_flash_attention": False}  # which wants xformers
    unet = nets.DiffusionModelUNet(**unet_shape)
    contents = [_read_weights(path) for path in _weight_files(folder)]
    of_unet = [content for content in contents if UNET_KEYS[1] in content]
    others = [content for content in contents if UNET_KEYS[1] not in content]
    if len(of_unet) != 1 or len(others) != 1:
        raise _unsupported(
            folder, f"{len(of_unet)} files of weights have 'diffusion', {len(others)} have not"
        )
    _fill(unet, _weights_in(of_unet[0], UNET_KEYS))
    _fill(autoencoder, _weights_in(others[0], AUTOENCODER_KEYS))
    levels = [*shape["num_channels"], None]  # each level halves
    return LdmCheckpoint(
        _spec(size, _latent_shape(unet_shape, levels, size, folder)),
        PublishedUnet(unet, lambda latents, timesteps: unet(latents, timesteps)),
        _adapted(autoencoder, MEDLORD_RANGE),
        1 / float(ldm["ldm"].get("scale_factor", 1.0)),
        DIFFUSION,
        monai_schedule(ldm["ldm"].get("scheduler", {})),
    )


def _diffusers(
    folder: Path,
    size: tuple[int, ...],
    spacing_mm: tuple[float, ...],  # noqa: ARG001  # of all readers
) -> LdmCheckpoint:
    from diffusers import AutoencoderKL as DiffusersKl
    from diffusers import UNet2DModel, VQModel

    parts = json.loads((folder / DIFFUSERS_INDEX).read_text())
    name = next((name for name in ("vae", "vqvae") if name in parts), None)
    classes = {"AutoencoderKL": DiffusersKl, "VQModel": VQModel}
    if (
        name is None
        or parts[name][1] not in classes
        or parts.get("unet", [0, 0])[1] != "UNet2DModel"
    ):
        raise _unsupported(
            folder, f"{DIFFUSERS_INDEX} names other parts than UNet2DModel with a VAE"
        )
    autoencoder = classes[parts[name][1]].from_pretrained(folder / name, local_files_only=True)
    unet_class: Any = UNet2DModel  # whose reader has no types
    unet = unet_class.from_pretrained(folder / "unet", local_files_only=True)
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type")
    arguments = {name: scheduler[name] for name in names if name in scheduler}
    halvings = len(autoencoder.config.block_out_channels) - 1
    latent_shape = (unet.config.in_channels, *(axis // 2**halvings for axis in size))
    return LdmCheckpoint(
        _spec(size, latent_shape),
        PublishedUnet(unet, lambda latents, timesteps: unet(latents, timesteps).sample),
        PublishedAutoencoder(
            autoencoder,
            encode=lambda images: _encoded_by_diffusers(autoencoder, images),
            decode=lambda latents: autoencoder.decode(latents).sample.mean(dim=1, keepdim=True),
        ),
        1 / float(autoencoder.config.scaling_factor),
        DIFFUSION,
        TrainedSchedule({"num_train_timesteps": 1000, "timestep_spacing": "trailing"} | arguments),
    )


def _encoded_by_diffusers(autoencoder: Any, images: Tensor) -> Tensor:
    """Returns latents of grey images, repeated for each colour that the network sees."""
    coloured = images.expand(-1, autoencoder.config.in_channels, *images.shape[2:])
    encoded = autoencoder.encode(coloured)
    return encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean


def _predict_by_monai(
    unet: nn.Module,
    shape: Mapping[str, Any],
    spacing_mm: tuple[float, ...],
    latents: Tensor,
    timesteps: Tensor,
) -> Tensor:
    """Returns a prediction; spacing and modality are given to a UNet that asks for them."""
    extra: dict[str, Tensor] = {}
    if shape.get("include_spacing_input"):
        extra["spacing_tensor"] = constant_of(spacing_mm, latents) * MM_TO_MAISI
    if shape.get("num_class_embeds"):
        extra["class_labels"] = torch.full((len(latents),), CT_CLASS, device=latents.device)
    return unet(latents, timesteps=timesteps, **extra)


def _adapted(network: Any, image_range: tuple[float, float]) -> PublishedAutoencoder:
    """Returns MONAI's autoencoder behind our range: its means are the latents, or its codes."""
    is_vq = hasattr(network, "quantizer")
    return PublishedAutoencoder(
        network,
        encode=network.encode if is_vq else lambda images: network.encode(images)[0],
        decode=network.decode_stage_2_outputs if is_vq else network.decode,
        gain=image_range[0],
        offset=image_range[1],
    )


def _built(definition: Mapping[str, Any]) -> nn.Module:
    """Returns an untrained network of a definition with a ``_target_``."""
    name = str(definition["_target_"]).rpartition(".")[2]
    if name not in MONAI_NETWORKS:
        raise ValueError(f"network {name} is none of {', '.join(MONAI_NETWORKS)}")
    arguments = {key: value for key, value in definition.items() if key != "_target_"}
    if not torch.cuda.is_available():
        # Both save memory of GPUs, change no weight, and are refused or wrong on a CPU.
        arguments |= {key: False for key in GPU_ONLY if key in arguments}
    return MONAI_NETWORKS[name](**arguments)


def _resolved(value: Any, config: Mapping[str, Any]) -> Any:
    """Returns a value of MONAI's configuration with ``@name`` replaced by what it refers to."""
    if isinstance(value, str) and value.startswith("@"):
        return config[value[1:]]
    if isinstance(value, dict):
        return {name: _resolved(item, config) for name, item in value.items()}
    return value


def _latent_shape(
    unet: Mapping[str, Any], levels: Any, size: tuple[int, ...], folder: Path
) -> tuple[int, ...]:
    """Returns the shape of a latent, of an autoencoder that halves images between its levels."""
    if unet["spatial_dims"] != len(size):
        raise CheckpointError(
            f"{folder} makes images of {unet['spatial_dims']} axes, not {size_text(size)}. "
            f"Pass dims={unet['spatial_dims']} and a size= of as many axes."
        )
    factor = 2 ** (len(levels) - 1)
    halvings = len(unet.get("num_channels") or unet["channels"]) - 1
    divisor = factor * 2**halvings
    if any(axis % divisor for axis in size):
        raise CheckpointError(
            f"{folder} makes images whose axes are divisible by {divisor}, not {size_text(size)}."
        )
    return (int(unet["in_channels"]), *(axis // factor for axis in size))


def _spec(size: tuple[int, ...], latent_shape: tuple[int, ...]) -> PublishedSpec:
    return PublishedSpec(len(size), size, "published", published_latent_shape=latent_shape)


def _json_with(folder: Path, *names: str) -> dict[str, Any] | None:
    """Returns the first JSON file of a folder, and of those in it, that has all these names."""
    for path in sorted(folder.rglob("*.json")):
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and set(names) <= content.keys():
            return content
    return None


def _yaml_with(folder: Path, name: str) -> dict[str, Any] | None:
    """Returns the first YAML file of a folder, and of those in it, that has this name."""
    for path in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")]):
        try:
            content = yaml.safe_load(path.read_text())
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(content, dict) and name in content:
            return content
    return None


def _weight_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in (".pt", ".pth"))


def _only_file(folder: Path, start: str, *, not_named: str = " ") -> Path:
    found = [
        path
        for path in _weight_files(folder)
        if path.name.startswith(start) and not_named not in path.name
    ]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise _unsupported(folder, f"one file {start}*.pt is needed, there is {names}")
    return found[0]


def _read_weights(path: Path) -> dict[str, Any]:
    """Returns the content of a file of tensors; objects of other classes are refused unread."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no weights")
    return content


def _weights_in(content: dict[str, Any], names: tuple[str, ...]) -> dict[str, Tensor]:
    """Returns the weights of a file, which may lie below a name and have a prefix of training."""
    state = next((content[name] for name in names if name in content), content)
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def _fill(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Copies weights into a network.

    Raises:
        ValueError: a weight is missing, unknown or of another shape.
    """
    expected = network.state_dict()
    different = sorted(expected.keys() ^ state.keys())
    if different:
        raise ValueError(f"{len(different)} weights are missing or unknown, {different[0]} first")
    for name, value in state.items():
        if expected[name].shape != value.shape:
            raise ValueError(
                f"weight {name} has shape {tuple(value.shape)}, not {tuple(expected[name].shape)}"
            )
    network.load_state_dict(state)


def _unsupported(folder: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} is no model that can be read: {reason}. Known are checkpoints of this project, "
        f"and folders of MAISI, MedLoRD or a diffusers pipeline; see docs/published_models.md."
    )
