"""Other projects' UNets and schedules, as this project's sampling calls them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from monai.networks.schedulers.scheduler import NoiseSchedules
from torch import Tensor, nn

from ldm_project.diffusion.noise_schedulers import TrainedSchedule, time_of

NUM_TIMES = 1000  # timesteps of a rectified flow in MONAI
# Names in MONAI of what a UNet predicts, and in diffusers.
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v_prediction", "sample": "sample"}


class PublishedUnet(nn.Module):
    """Another project's UNet: latents and timesteps in, its prediction out.

    Args:
        network: trained.
        predict: calls it with latents ``(B, C, *S)`` and timesteps ``(B,)``.
    """

    def __init__(self, network: nn.Module, predict: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network
        self._predict = predict

    def forward(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        """Returns the network's prediction."""
        return self._predict(latents, timesteps)


def flow_of_monai(
    predict: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns a prediction by this project's conventions, of a rectified flow in MONAI.

    MONAI counts time from 0 to 1000 where we count from -1 to 999, and its velocity points to data.
    """
    return lambda latents, timesteps: -predict(latents, time_of(timesteps) * NUM_TIMES)


def monai_schedule(values: Mapping[str, Any]) -> TrainedSchedule:
    """Returns the schedule of a diffusion from the arguments of MONAI's scheduler.

    Raises:
        KeyError, TypeError, ValueError: MONAI has no such schedule.
    """
    number = int(values.get("num_train_timesteps", 1000))
    name = str(values.get("schedule", "linear_beta"))
    known = ("num_train_timesteps", "schedule", "prediction_type", "variance_type", "clip_sample")
    shaping = {key: float(value) for key, value in values.items() if key not in known}
    noise = NoiseSchedules[name](num_train_timesteps=number, **shaping)
    betas = noise[0] if isinstance(noise, tuple) else noise
    return TrainedSchedule(
        {
            "num_train_timesteps": number,
            "trained_betas": np.asarray(betas, dtype=np.float64),
            "prediction_type": PREDICTIONS[str(values.get("prediction_type", "epsilon"))],
            "timestep_spacing": "trailing",
        }
    )


def monai_flow(values: Mapping[str, Any], latent_size: tuple[int, ...]) -> TrainedSchedule:
    """Returns the schedule of a rectified flow from the arguments of MONAI's scheduler.

    Where MONAI moves the timesteps by the size of a latent, that is a shift of the times.

    Raises:
        ValueError: it has another number of timesteps.
    """
    number = int(values.get("num_train_timesteps", NUM_TIMES))
    if number != NUM_TIMES:
        raise ValueError(f"num_train_timesteps is {number}, not {NUM_TIMES}")
    shift = 1.0
    if values.get("use_timestep_transform"):
        base = float(values.get("base_img_size_numel", 32**3))
        dims = int(values.get("spatial_dim", 3))
        shift = float((np.prod(latent_size) / base) ** (1 / dims))
    return TrainedSchedule({"num_train_timesteps": NUM_TIMES}, shift)


def constant_of(values: tuple[float, ...], latents: Tensor) -> Tensor:
    """Returns values that each sample of a batch shares, ``(B, len(values))``."""
    shared = torch.tensor(values, dtype=latents.dtype, device=latents.device)
    return shared.expand(len(latents), -1)
