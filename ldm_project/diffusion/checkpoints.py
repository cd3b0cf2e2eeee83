"""Trained networks on disk: safetensors with a JSON config, written completely or not at all."""

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ldm_project.config import DIFFUSION, SAMPLERS_BY_OBJECTIVE
from ldm_project.diffusion.acceleration import hasten_on_cpu
from ldm_project.diffusion.autoencoders import Autoencoder, OwnAutoencoder
from ldm_project.diffusion.models import (
    ModelSpec,
    build_unet,
    build_vqgan,
    canonical_state,
    load_canonical_state,
    resolve_device,
)
from ldm_project.diffusion.noise_schedulers import OWN_SCHEDULE, TrainedSchedule
from ldm_project.diffusion.weights_digest import digest_of_state, weights_digest
from ldm_project.errors import CheckpointError, InvalidInputError

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, FORMAT_VERSION)  # version 1 knew strided autoencoders only
CONFIG_FILE = "config.json"
KIND_VQGAN = "vqgan"
KIND_LDM = "ldm"
DIGESTS = "weights_digests"  # in the config: by network; checkpoints of before lack it


@dataclass(frozen=True)
class VqganCheckpoint:
    """A trained autoencoder, VQ-GAN or ``kl``, and the spec that it was built from."""

    spec: ModelSpec
    vqgan: OwnAutoencoder


@dataclass(frozen=True)
class LdmCheckpoint:
    """A trained LDM: its UNet works on latents of its VQ-GAN, divided by ``latent_scale``.

    ``objective`` is the UNet's training objective: ``diffusion`` or ``rflow``. ``schedule`` is that
    of its training; checkpoints of this project have one only.
    """

    spec: ModelSpec
    unet: nn.Module
    vqgan: Autoencoder
    latent_scale: float
    objective: str = DIFFUSION
    schedule: TrainedSchedule = OWN_SCHEDULE


def save_vqgan(folder: Path, spec: ModelSpec, vqgan: OwnAutoencoder) -> None:
    """Writes a VQ-GAN checkpoint; an existing one is replaced only when the new one is complete.

    Raises:
        CheckpointError: the checkpoint cannot be written.
    """
    _save(folder, {"kind": KIND_VQGAN, "spec": spec.to_dict()}, {"vqgan": vqgan})


def save_ldm(folder: Path, ldm: LdmCheckpoint) -> None:
    """Writes an LDM checkpoint; an existing one is replaced only when the new one is complete.

    Raises:
        CheckpointError: the checkpoint cannot be written.
    """
    config = {
        "kind": KIND_LDM,
        "spec": ldm.spec.to_dict(),
        "latent_scale": ldm.latent_scale,
        "objective": ldm.objective,
    }
    _save(folder, config, {"unet": ldm.unet, "vqgan": ldm.vqgan})


def load_vqgan(
    folder: Path,
    *,
    backend: str,
    device: str | None,
    digests: Mapping[str, str] | None = None,
) -> VqganCheckpoint:
    """Returns a VQ-GAN, ready to use.

    Args:
        folder: of the checkpoint.
        backend: that builds the network.
        device: that holds it; ``None`` takes a GPU where there is one.
        digests: that the checkpoint was registered with; ``None`` where nobody noted them.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged, of another kind or other weights.
        InvalidInputError: no such backend or device.
    """
    spec, config = _read_config(folder, KIND_VQGAN, digests)
    vqgan = build_vqgan(spec, backend=backend).to(resolve_device(device))
    _load_weights(vqgan, folder / "vqgan.safetensors", config)
    return VqganCheckpoint(spec, vqgan)


def load_ldm(
    folder: Path,
    *,
    backend: str,
    device: str | None,
    digests: Mapping[str, str] | None = None,
) -> LdmCheckpoint:
    """Returns an LDM, ready to sample from.

    Args:
        folder: of the checkpoint.
        backend: that builds the networks.
        device: that holds them; ``None`` takes a GPU where there is one.
        digests: that the checkpoint was registered with; ``None`` where nobody noted them.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged, of another kind or other weights.
        InvalidInputError: no such backend or device.
    """
    spec, config = _read_config(folder, KIND_LDM, digests)
    latent_scale = config.get("latent_scale")
    if not (isinstance(latent_scale, float) and 0 < latent_scale < math.inf):
        raise _damaged(folder / CONFIG_FILE, f"latent_scale is {latent_scale!r}")
    objective = config.get("objective", DIFFUSION)  # older checkpoints lack it
    if objective not in SAMPLERS_BY_OBJECTIVE:
        raise _damaged(folder / CONFIG_FILE, f"objective is {objective!r}")
    unet = build_unet(spec, backend=backend).to(resolve_device(device))
    vqgan = build_vqgan(spec, backend=backend).to(resolve_device(device))
    _load_weights(unet, folder / "unet.safetensors", config)
    _load_weights(vqgan, folder / "vqgan.safetensors", config)
    if backend == "core":  # monai-generative's networks stay as they are, to be compared with
        hasten_on_cpu(unet, vqgan, dims=spec.dims)
    return LdmCheckpoint(spec, unet, vqgan, latent_scale, objective)


def _save(folder: Path, config: dict[str, Any], networks: Mapping[str, nn.Module]) -> None:
    if folder.exists() and not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(
            f"{folder} exists and holds no checkpoint, so it stays; give another folder."
        )
    try:
        digests = {name: weights_digest(network) for name, network in networks.items()}
        config = {"format_version": FORMAT_VERSION} | config | {DIGESTS: digests}
        text = json.dumps(config, indent=2)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as staging:
            new = Path(staging) / "new"
            new.mkdir()
            (new / CONFIG_FILE).write_text(text)
            for name, network in networks.items():
                state = {key: value.contiguous() for key, value in canonical_state(network).items()}
                # The weights file repeats the config, which reveals mixed files of two checkpoints.
                save_file(state, new / f"{name}.safetensors", metadata={"config": text})
            for file in new.iterdir():
                _flush(file)
            _move_into_place(new, folder, previous=Path(staging) / "previous")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"Cannot write checkpoint {folder}: {error}. Free disk space or give another folder; "
            f"a checkpoint that was there before is unchanged."
        ) from error


def _flush(file: Path) -> None:
    """Waits until a file is on the disk: a power cut after the move must not empty the file."""
    with file.open("rb") as written:
        os.fsync(written.fileno())


def _move_into_place(new: Path, folder: Path, *, previous: Path) -> None:
    if folder.exists():
        folder.rename(previous)
    try:
        new.rename(folder)
    except OSError:
        if previous.exists():
            previous.rename(folder)
        raise


def digests_of(folder: Path) -> dict[str, str]:
    """Returns the digest of each network's weights as the config of a new checkpoint has them."""
    digests: dict[str, str] = json.loads((folder / CONFIG_FILE).read_text())[DIGESTS]
    return digests


def _read_config(
    folder: Path, kind: str, digests: Mapping[str, str] | None
) -> tuple[ModelSpec, dict[str, Any]]:
    """Returns the spec and the whole config of a checkpoint of one kind.

    ``digests`` are those that the checkpoint was registered with, where that is known.
    """
    path = folder / CONFIG_FILE
    if not folder.is_dir():
        raise CheckpointError(f"No checkpoint folder {folder}. Train one, or correct the path.")
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {CONFIG_FILE}, so it is no checkpoint.")
    try:
        config = json.loads(path.read_text())
        version, found_kind = config["format_version"], config["kind"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, repr(error)) from error
    if version not in READABLE_VERSIONS:
        raise CheckpointError(
            f"{path} has format version {version!r}; this release reads up to {FORMAT_VERSION}. "
            f"Train again, or load it with the release that wrote it."
        )
    if found_kind != kind:
        raise CheckpointError(f"{folder} holds a {found_kind} checkpoint; give a {kind} one.")
    if not isinstance(config.get(DIGESTS, {}), dict):
        raise _damaged(path, f"{DIGESTS} is {config[DIGESTS]!r}")
    if digests is not None and config.get(DIGESTS) != dict(digests):
        raise CheckpointError(
            f"{folder} holds the weights {_digests_text(config.get(DIGESTS))}, but the model was "
            f"registered with {_digests_text(digests)}. Copy its files again, or give this "
            f"checkpoint by its folder."
        )
    try:
        return ModelSpec.from_dict(config["spec"]), config
    except (KeyError, TypeError, ValueError, AttributeError, InvalidInputError) as error:
        raise _damaged(path, f"spec: {error!r}") from error


def _load_weights(network: nn.Module, path: Path, config: dict[str, Any]) -> None:
    """Fills a network from a file and makes it ready to use."""
    if not path.is_file():
        raise CheckpointError(
            f"Checkpoint {path.parent} lacks {path.name}; copy it or train again."
        )
    try:
        with safe_open(path, framework="pt") as weights:
            metadata = weights.metadata() or {}
            state = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
        written_with = json.loads(metadata.get("config", "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if written_with != config:
        raise _damaged(path, f"its weights were saved with another {CONFIG_FILE} than beside it")
    digest = config.get(DIGESTS, {}).get(path.stem)
    if digest is not None and digest_of_state(state) != digest:
        raise _damaged(
            path,
            f"its weights have the digest {digest_of_state(state)}, not {digest} as when saved",
        )
    try:
        load_canonical_state(network, state)
    except ValueError as error:
        raise _damaged(path, f"its weights do not fit {CONFIG_FILE}: {error}") from error
    network.eval().requires_grad_(False)


def _digests_text(digests: Mapping[str, str] | None) -> str:
    """Returns digests for a person to compare: the first digits of each."""
    listed = (f"{name} {digest[:8]}" for name, digest in sorted((digests or {}).items()))
    return ", ".join(listed) or "of no known digest"


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"Checkpoint file {path} is damaged ({reason}). Copy it again or retrain."
    )
