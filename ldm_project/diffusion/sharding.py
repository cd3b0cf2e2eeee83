"""Trainings too large for one GPU: each process holds a part of every weight (PyTorch's FSDP)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

# Per weight, in a process that holds all of them: the weight, its gradient, the optimiser's two
# moments, the moving average, and the copy of the gradient that DDP averages, 4 bytes each.
TRAINING_BYTES_PER_WEIGHT = 24
# Of a GPU's memory; the rest is for the activations that the backward pass needs.
MAX_TRAINING_FRACTION = 0.5
# With both, the first process alone gets what is gathered.
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def fits(num_weights: int, device: torch.device) -> bool:
    """Returns ``True`` if a training of ``num_weights`` leaves half of a GPU's memory free."""
    if device.type != "cuda":
        return True
    memory_bytes = torch.cuda.get_device_properties(device).total_memory
    return num_weights * TRAINING_BYTES_PER_WEIGHT <= MAX_TRAINING_FRACTION * memory_bytes


def shard(unet: nn.Module, device: torch.device) -> None:
    """Divides every weight equally among the processes, in place, each part on its device.

    The weights of a block are gathered while the block computes, and divided again. All processes
    must call this, with equal weights; meanwhile only one block is whole on the device.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    levels: Any = unet  # both libraries use the same attributes
    for module in (*levels.down_blocks, levels.middle_block, *levels.up_blocks, unet):
        sharded: FSDPModule = fully_shard(module, mesh=mesh)
        if device.type == "cpu":  # Gloo cannot compute a mean
            sharded.set_force_sum_reduction_for_comms(True)


def is_sharded(network: nn.Module) -> bool:
    """Returns ``True`` if this process holds only a part of the network."""
    return isinstance(network, FSDPModule)


def whole_weights(network: nn.Module) -> dict[str, Any]:
    """Returns the whole weights on the CPU in the first process, nothing in others.

    All processes must call it.
    """
    return get_model_state_dict(network, options=WHOLE)


def whole_moments(network: nn.Module, adam: Optimizer) -> dict[str, Any]:
    """Returns the optimiser's state with whole moments by weight, as ``whole_weights`` does."""
    return get_optimizer_state_dict(network, adam, options=WHOLE)


def load_weights(network: nn.Module, weights: Mapping[str, Any]) -> None:
    """Puts whole weights into a network; a process that holds a part takes its part."""
    if any(isinstance(weight, DTensor) for weight in network.parameters()):
        set_model_state_dict(network, dict(weights), options=WHOLE)
    else:
        network.load_state_dict(weights)


def part(value: Any, like: Any) -> Any:
    """Returns this process's part of a whole tensor, divided as ``like`` is."""
    is_divided = isinstance(like, DTensor) and isinstance(value, Tensor)
    if not is_divided or value.shape != like.shape:
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
