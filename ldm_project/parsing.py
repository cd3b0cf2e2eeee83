"""Turns the text of one parameter into a value (a size, a count), or names it in an error."""

import math
import os
from collections.abc import Sequence
from dataclasses import fields

from ldm_project.config import (
    AUTO,
    DEFAULT_SIZE_BY_DIMS,
    DOWNSAMPLING_FACTOR,
    MAX_LATENT_POSITIONS,
    NUM_PHANTOMS,
    PHANTOM,
    RunConfig,
)
from ldm_project.errors import InvalidInputError
from ldm_project.presets import PRESETS, ModelPreset

MIN_PHANTOMS = 2  # one to learn from, one to hold out


def given(value: str) -> str | None:
    """Returns the text, or ``None`` for ``auto``, which leaves the choice open."""
    return None if value == AUTO else value


def num_phantoms(data: str) -> int | None:
    """Returns the number of phantoms of ``phantom`` or ``phantom:320``; ``None`` for other data.

    Raises:
        InvalidInputError: the number is not one, or leaves nothing to hold out.
    """
    name, colon, number = data.partition(":")
    if name != PHANTOM:
        return None
    if not colon:
        return NUM_PHANTOMS
    if not number.isdecimal() or int(number) < MIN_PHANTOMS:
        raise InvalidInputError(
            f"data is {data!r}; give phantom:N, of {MIN_PHANTOMS} phantoms or more."
        )
    return int(number)


def resolve_preset(model_size: str) -> ModelPreset:
    """Returns the widths that a model size names.

    Raises:
        InvalidInputError: no preset has that name.
    """
    if model_size not in PRESETS:
        raise InvalidInputError(f"model_size is {model_size!r}; use one of {', '.join(PRESETS)}.")
    return PRESETS[model_size]


def resolve_size(size: str, dims: int, model_size: str) -> tuple[int, ...]:
    """Returns the image size in pixels or voxels, one number per axis.

    Args:
        size: ``auto``, one number for every axis (``192``), or one per axis (``256x256x192``).
        dims: 2 or 3.
        model_size: the preset, whose depth sets the number that must divide each axis.

    Raises:
        InvalidInputError: ``dims`` is not 2 or 3, ``size`` cannot be read or has another
            number of axes, or the networks cannot halve an axis often enough.
    """
    _check_dims(dims)
    if size == AUTO:
        return DEFAULT_SIZE_BY_DIMS[dims]
    parts = size.lower().split("x")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InvalidInputError(
            f"size is {size!r}; give one number (192) or one per axis (256x256x192)."
        )
    axes = tuple(int(part) for part in parts)
    if len(axes) == 1:
        axes = axes * dims
    check_size(axes, dims, model_size)
    return axes


def resolve_patch_size(
    patch_size: str, size: tuple[int, ...], model_size: str
) -> tuple[int, ...] | None:
    """Returns the size of the patches to train on; ``None`` for ``auto``: whole images.

    Raises:
        InvalidInputError: the text is no size that the networks can halve, or an axis is longer
            than the image's.
    """
    if patch_size == AUTO:
        return None
    try:
        patch = resolve_size(patch_size, len(size), model_size)
    except InvalidInputError as error:
        raise InvalidInputError(f"patch_size: {error}") from error
    if any(part > whole for part, whole in zip(patch, size, strict=True)):
        raise InvalidInputError(
            f"patch_size is {patch_size!r}, but an image has {size_text(size)}; give at most "
            f"that, or auto."
        )
    return patch


def check_size(size: tuple[int, ...], dims: int, model_size: str) -> None:
    """Checks that the networks of a preset can make images of a size.

    Raises:
        InvalidInputError: ``dims`` is not 2 or 3, the size has another number of axes, or an axis
            cannot be halved as often as the networks do.
    """
    _check_dims(dims)
    if len(size) != dims:
        raise InvalidInputError(
            f"size {size_text(size)!r} has {len(size)} axes but dims is {dims}; "
            f"give one number or {dims}."
        )
    # The UNet halves the latent between its levels, on top of the autoencoder's factor.
    divisor = DOWNSAMPLING_FACTOR * 2 ** (len(resolve_preset(model_size).unet_channels) - 1)
    for axis in size:
        if axis % divisor:
            nearest = max(divisor, round(axis / divisor) * divisor)
            raise InvalidInputError(
                f"size {size_text(size)!r}: {axis} is not divisible by {divisor}, "
                f"which model_size {model_size} needs; use {nearest}."
            )


def size_text(size: tuple[int, ...]) -> str:
    """Returns a size as the ``size`` parameter takes it: ``256x256x192``."""
    return "x".join(str(axis) for axis in size)


def resolve_count(name: str, value: str, default: int) -> int:
    """Returns a count above zero from its text, or the default for ``auto``.

    Raises:
        InvalidInputError: the text is not a whole number above zero.
    """
    if value == AUTO:
        return default
    if not value.isdecimal() or int(value) == 0:
        raise InvalidInputError(f"{name} is {value!r}; give a whole number above zero, or auto.")
    return int(value)


def resolve_switch(value: str) -> bool | None:
    """Returns ``True`` for ``on``, ``False`` for ``off`` and ``None`` for ``auto``."""
    return None if value == AUTO else value == "on"


def resolve_pue(pue: str) -> float | None:
    """Returns the power usage effectiveness; ``None`` for ``auto``.

    Raises:
        InvalidInputError: the text is not a number.
    """
    if pue == AUTO:
        return None
    try:
        return float(pue)
    except ValueError:
        raise InvalidInputError(f"pue is {pue!r}; give a number such as 1.2, or auto.") from None


def resolve_spacing_mm(spacing_mm: str) -> tuple[float, ...] | None:
    """Returns the voxel spacing to resample to, one number per axis; ``None`` keeps the scan's.

    Raises:
        InvalidInputError: the text is not one or three numbers above zero.
    """
    if spacing_mm == AUTO:
        return None
    try:
        axes = tuple(float(part) for part in spacing_mm.split("x"))
    except ValueError:
        axes = ()
    if len(axes) not in (1, 3) or not all(0 < axis < math.inf for axis in axes):
        raise InvalidInputError(
            f"spacing_mm is {spacing_mm!r}; give 1 or 1x1x2 (millimetres above zero), or auto."
        )
    return axes * 3 if len(axes) == 1 else axes


def check_choices(config: RunConfig) -> None:
    """Checks the parameters with a fixed list of values, and the numbers of iterations.

    Raises:
        InvalidInputError: a value is not in the list, or a number is out of range.
    """
    for parameter in fields(config):
        value, choices = getattr(config, parameter.name), parameter.metadata["choices"]
        if choices and value not in choices:
            raise InvalidInputError(
                f"{parameter.name} is {value!r}; use one of {', '.join(choices)}."
            )
        if parameter.name.endswith("iterations") and value < 1:
            raise InvalidInputError(f"{parameter.name} is {value}; give 1 or more.")


def num_fitting(latent_size: Sequence[int]) -> int:
    """Returns the number of images (at least 1) that fill a device, from their latents' size."""
    return max(1, MAX_LATENT_POSITIONS // math.prod(latent_size))


def num_launched() -> int:
    """Returns the number of processes that a launcher such as torchrun started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def _check_dims(dims: int) -> None:
    if dims not in DEFAULT_SIZE_BY_DIMS:
        raise InvalidInputError(f"dims is {dims}; it must be 2 (slices) or 3 (volumes).")
