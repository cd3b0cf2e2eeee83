"""The memory that a cell needs, by the forecast of its networks, and what a device has for it."""

import torch

from ldm_project.diffusion.memory import (
    Memory,
    Work,
    free_bytes_of,
    sampling_bytes,
    training_bytes,
)
from ldm_project.diffusion.models import ModelSpec
from ldm_project.study.cells import TRAIN, Cell


def memory_of(cell: Cell, spec: ModelSpec, *, device: torch.device, precision: str) -> Memory:
    """Returns the memory that a cell needs on a device, and what is free there.

    On a CPU all processes share the memory; on GPUs each has one of its own.

    Args:
        cell: what is computed.
        spec: of its networks.
        device: that it is computed on.
        precision: of the UNet: ``fp32`` or ``bf16``.
    """
    needed_bytes = needed_by(cell, spec, precision=precision, device_type=device.type)
    num_sharing = cell.num_processes if device.type == "cpu" else 1
    return Memory(needed_bytes * num_sharing, free_bytes_of(device))


def needed_by(cell: Cell, spec: ModelSpec, *, precision: str, device_type: str) -> int:
    """Returns the bytes that one process of a cell needs at its peak."""
    work = Work(cell.batch_size, precision, device_type, is_shared=cell.num_processes > 1)
    return (training_bytes if cell.task == TRAIN else sampling_bytes)(spec, work)
