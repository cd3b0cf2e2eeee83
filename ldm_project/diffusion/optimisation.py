"""The optimiser of both trainings (Adam, cosine learning rate) and a moving average of weights."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from ldm_project.diffusion.sharding import part, whole_moments
from ldm_project.errors import InvalidInputError

ADAM_BETAS = (0.9, 0.99)
RAMP_ITERATIONS = 20  # over which the learning rate rises to its full value
MAX_GRADIENT_NORM = 1.0
MAX_AVERAGE_DECAY = 0.999  # of the moving average, once a training is long


class Optimiser:
    """Adam whose learning rate rises for a few steps and falls to zero along a cosine."""

    def __init__(self, network: nn.Module, learning_rate: float, iterations: int) -> None:
        trained = [(name, it) for name, it in network.named_parameters() if it.requires_grad]
        self._network = network
        self._names = [name for name, _ in trained]
        self._parameters = [weight for _, weight in trained]
        self._adam = Adam(self._parameters, lr=learning_rate, betas=ADAM_BETAS, fused=True)
        self._schedule = LambdaLR(self._adam, lambda step: learning_rate_factor(step, iterations))

    def step(self, loss: Tensor) -> None:
        """Moves the weights down the gradient of a loss."""
        self._adam.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._parameters, MAX_GRADIENT_NORM)
        self._adam.step()
        self._schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """Returns the moments of the gradients and the place on the cosine."""
        return {"adam": self._adam.state_dict(), "schedule": self._schedule.state_dict()}

    def whole_state_dict(self) -> dict[str, Any]:
        """Returns the whole state in the first of the processes that hold parts; all must call it.

        Other processes get nothing.
        """
        moments = whole_moments(self._network, self._adam)
        if not moments:
            return {}
        state = self.state_dict()
        by_index = {
            index: moments["state"][name]
            for index, name in enumerate(self._names)
            if name in moments["state"]
        }
        return {**state, "adam": {**state["adam"], "state": by_index}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state from ``state_dict``, whose tensors must be whole, not sharded."""
        moments = {
            index: {name: part(value, self._parameters[index]) for name, value in of_one.items()}
            for index, of_one in state["adam"]["state"].items()
        }
        self._adam.load_state_dict({**state["adam"], "state": moments})
        self._schedule.load_state_dict(state["schedule"])


def learning_rate_factor(step: int, iterations: int) -> float:
    """Returns the fraction of the full learning rate at a step (from 0) of a training."""
    ramp = min(1.0, (step + 1) / RAMP_ITERATIONS)
    return ramp * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / iterations)))


def averaged(network: nn.Module) -> AveragedModel:
    """Returns an exponential moving average of a network's weights, to be updated each step.

    The average forgets quickly at first, while the weights still change a lot.
    """

    def average(averages: Any, weights: Any, num_averaged: Any) -> None:
        torch._foreach_lerp_(averages, weights, 1.0 - average_decay(int(num_averaged)))

    return AveragedModel(network, multi_avg_fn=average)


def average_decay(num_averaged: int) -> float:
    """Returns the fraction of the old average that is kept when the next weights are added."""
    return min(MAX_AVERAGE_DECAY, (1 + num_averaged) / (10 + num_averaged))


def check_loss(loss: Tensor, name: str, iteration: int, learning_rate: float) -> None:
    """Checks that the loss of a training is finite.

    Raises:
        InvalidInputError: the loss is infinite or NaN.
    """
    if not torch.isfinite(loss):
        raise InvalidInputError(
            f"The loss of the {name} became {loss.item()} in iteration {iteration}. Lower the "
            f"learning rate ({learning_rate:g}), and check the images for values that are not "
            f"finite."
        )
