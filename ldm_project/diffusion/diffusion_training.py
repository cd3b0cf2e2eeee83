"""The training of a diffusion UNet, or of a rectified flow, on latents of a frozen VQ-GAN."""

from collections.abc import Callable, Collection, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm_project.config import ABSOLUTE, DIFFUSION, NUM_TRAIN_TIMESTEPS, RFLOW, SQUARED
from ldm_project.diffusion.acceleration import FP32, autocast
from ldm_project.diffusion.latents import Latents
from ldm_project.diffusion.models import device_of
from ldm_project.diffusion.noise_schedulers import flowed, noised
from ldm_project.diffusion.optimisation import Optimiser, averaged, check_loss
from ldm_project.diffusion.processes import ALONE, Processes
from ldm_project.diffusion.seeding import seeded_generator
from ldm_project.diffusion.sharding import is_sharded, load_weights, shard, whole_weights
from ldm_project.parsing import num_fitting

# As tried on phantoms: docs/image_quality.md.
DIFFUSION_LEARNING_RATE_BY_LOSS = {ABSOLUTE: 3e-3, SQUARED: 2e-3}
ERROR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {ABSOLUTE: F.l1_loss, SQUARED: F.mse_loss}
ADD_NOISE = {DIFFUSION: noised, RFLOW: flowed}  # by training objective


@dataclass(frozen=True)
class DiffusionStep:
    """Mean error of the predicted velocity in one iteration (from 1)."""

    iteration: int
    loss: float


@dataclass(frozen=True)
class NoisyBatch:
    """The batch of one iteration: latents ``(B, C, *S)`` with noise, and their velocity."""

    noisy: Tensor
    timesteps: Tensor  # (B,)
    velocity: Tensor  # (B, C, *S)


class DiffusionTraining:
    """A UNet in training, the moving average of its weights, and the iterations done so far.

    Sample from the average: it is free of the last batches' noise.

    Args:
        unet: from ``build_unet``; trained in place.
        iterations: how many batches to train on in all.
        objective: ``diffusion`` or ``rflow``.
        loss: ``absolute`` or ``squared``, the error of the velocity that training lowers.
        learning_rate: of the UNet; ``None`` takes the one that suits the loss.
        precision: of the UNet, ``fp32`` or ``bf16``; the loss stays in full precision.
    """

    def __init__(
        self,
        unet: nn.Module,
        *,
        iterations: int,
        objective: str = DIFFUSION,
        loss: str = ABSOLUTE,
        learning_rate: float | None = None,
        precision: str = FP32,
    ) -> None:
        self.unet = unet
        self.iterations = iterations
        self.objective = objective
        self.loss = loss
        self.learning_rate = learning_rate or DIFFUSION_LEARNING_RATE_BY_LOSS[loss]
        self.precision = precision
        self.iteration = 0  # number of the last finished iteration
        self.average = averaged(unet)
        self.optimiser = Optimiser(unet, self.learning_rate, iterations)
        self._gathered: dict[str, Any] = {}  # the state at the last gather
        self._gathered_average: nn.Module | None = None

    @property
    def averaged_unet(self) -> nn.Module:
        """The UNet with averaged weights, ready to sample from."""
        network: nn.Module = self._gathered_average or self.average.module
        return network.eval()

    def shard(self, device: torch.device, *, is_first: bool) -> None:
        """Divides the weights among the processes; all must call it, before anything else.

        After it, only the first process has the state and the averaged UNet, and they are those of
        the last ``gather``.
        """
        self._gathered_average = deepcopy(self.unet).to(device) if is_first else None
        for network in (self.unet, self.average.module):
            shard(network, device)
        self.optimiser = Optimiser(self.unet, self.learning_rate, self.iterations)

    def gather(self) -> None:
        """Collects the parts of the state in the first process; all processes must call it."""
        if not is_sharded(self.unet):
            return
        self._gathered = {
            "iteration": self.iteration,
            "unet": whole_weights(self.unet),
            "average": whole_weights(self.average),
            "optimiser": self.optimiser.whole_state_dict(),
        }
        if self._gathered_average is not None:
            average = {
                name.removeprefix("module."): weight
                for name, weight in self._gathered["average"].items()
                if name.startswith("module.")  # the state also counts the averaged weights
            }
            self._gathered_average.load_state_dict(average)

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that the training needs to continue as if it had never stopped."""
        return self._gathered or self._state_here()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state from ``state_dict``, in any number of processes."""
        load_weights(self.unet, state["unet"])
        load_weights(self.average, state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.iteration = state["iteration"]
        self.gather()

    def _state_here(self) -> dict[str, Any]:
        """Returns the state of a training that this process holds whole."""
        return {
            "iteration": self.iteration,
            "unet": self.unet.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }


def train_diffusion(
    training: DiffusionTraining,
    latents: Latents,
    *,
    batch_size: int,
    seed: int,
    processes: Processes = ALONE,
    stops_every: Collection[int] = (),
) -> Iterator[DiffusionStep]:
    """Trains from the next iteration to the last one.

    Args:
        training: updated in place; if processes share it, it must be equal in all of them.
        latents: of the training set.
        batch_size: latents per iteration of all processes, drawn with replacement.
        seed: of the batches, their timesteps and their noise.
        processes: that share each batch; together they learn what one process would.
        stops_every: periods in iterations: after each, and at the end, a sharded training is
            gathered, and the other processes wait while the first one uses it.

    Raises:
        InvalidInputError: the loss became infinite or NaN.
    """
    unet = training.unet.train()
    in_step, device = processes.in_step(unet), device_of(unet)
    for iteration in range(training.iteration + 1, training.iterations + 1):
        generator = seeded_generator(f"{seed} {iteration}".encode())
        batch = noisy_batch(
            latents, batch_size, generator, objective=training.objective, device=device
        )
        noisy, velocity = processes.share(batch.noisy), processes.share(batch.velocity)
        with autocast(device, training.precision):
            predicted = in_step(noisy, processes.share(batch.timesteps))
        # Each share is weighted by its size, so the mean over processes is the mean over the batch.
        weight = len(noisy) * processes.count / batch_size
        own_loss = weight * ERROR[training.loss](predicted.float(), velocity)
        loss = processes.mean(own_loss)
        check_loss(loss, "diffusion UNet", iteration, training.learning_rate)
        training.optimiser.step(own_loss)
        training.average.update_parameters(unet)
        training.iteration = iteration
        is_due = iteration == training.iterations or any(iteration % n == 0 for n in stops_every)
        if is_due:
            training.gather()
        yield DiffusionStep(iteration, loss.item())
        if is_due:
            processes.meet()  # its timeout is longer than that of the gradient exchange


@torch.inference_mode()
def validation_loss(training: DiffusionTraining, latents: Latents) -> float:
    """Returns the averaged UNet's loss on held-out latents, with the same noise at each call."""
    generator = seeded_generator(b"validation")
    device = device_of(training.unet)
    batch = noisy_batch(
        latents, len(latents.values), generator, objective=training.objective, device=device
    )
    num_together, total = num_fitting(latents.values.shape[2:]), 0.0
    for noisy, timesteps, velocity in zip(
        torch.split(batch.noisy, num_together),
        torch.split(batch.timesteps, num_together),
        torch.split(batch.velocity, num_together),
        strict=True,
    ):
        with autocast(device, training.precision):
            predicted = training.averaged_unet(noisy, timesteps)
        total += ERROR[training.loss](predicted.float(), velocity).item() * len(noisy)
    return total / len(latents.values)


def noisy_batch(
    latents: Latents,
    batch_size: int,
    generator: torch.Generator,
    *,
    objective: str,
    device: torch.device,
) -> NoisyBatch:
    """Returns the batch of an iteration; all its random choices come from the generator."""
    chosen = torch.randint(len(latents.values), (batch_size,), generator=generator)
    clean = latents.scaled(chosen, device)
    noise = torch.randn(clean.shape, generator=generator).to(device)
    timesteps = spread_timesteps(batch_size, generator).to(device)
    noisy, velocity = ADD_NOISE[objective](clean, noise, timesteps)
    return NoisyBatch(noisy, timesteps, velocity)


def spread_timesteps(batch_size: int, generator: torch.Generator) -> Tensor:
    """Returns random timesteps ``(B,)``, one from each of B equal parts of the schedule.

    Each timestep is as likely as under independent draws, but no batch is all noise or all image:
    small batches train far more steadily.
    """
    positions = torch.arange(batch_size) + torch.rand(batch_size, generator=generator)
    return (positions / batch_size * NUM_TRAIN_TIMESTEPS).long().clamp(max=NUM_TRAIN_TIMESTEPS - 1)
