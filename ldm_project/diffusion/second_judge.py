"""A second judge: a small network that learns, from real images alone, what was done to an image.

It shares nothing with the autoencoder whose samples it judges. Volumes are judged by slices along
their three planes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from ldm_project.config import HU_MAX
from ldm_project.diffusion.optimisation import learning_rate_factor
from ldm_project.diffusion.seeding import seeded_generator

NUM_FEATURES = 32
CHANNELS = (16, 32, 64)  # of levels that halve the image each
NUM_NORM_GROUPS = 4
FEATURE_PLACES = 4  # along each axis: where in the image something lies is kept
ITERATIONS, IMAGES_PER_ITERATION, LEARNING_RATE = 300, 32, 2e-3
COMPUTED_TOGETHER = 256  # slices
NUM_SLICES = 4  # of each plane of a volume, from its middle half

# What is done to images, in HU or pixels: from hardly visible to plain.
SHIFT_HU_RANGE, NOISE_HU_RANGE, BLUR_PIXELS_RANGE = (20.0, 100.0), (20.0, 100.0), (0.5, 1.5)
BLUR_REACH = 3  # pixels from the middle of the kernel to its edge


def _unchanged(images: Tensor, _: torch.Generator) -> Tensor:
    return images


def _mirrored(images: Tensor, _: torch.Generator) -> Tensor:
    return images.flip(-2)


def _upside_down(images: Tensor, _: torch.Generator) -> Tensor:
    return images.flip(-1)


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    amount_hu = _one_each(images, SHIFT_HU_RANGE, generator)
    sign = torch.randint(2, amount_hu.shape, generator=generator) * 2 - 1
    return (images + sign * amount_hu / HU_MAX).clamp(-1.0, 1.0)


def _noisy(images: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(images.shape, generator=generator)
    return (images + noise * _one_each(images, NOISE_HU_RANGE, generator) / HU_MAX).clamp(-1.0, 1.0)


def _blurred(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns the images, each blurred by a Gaussian of a width of its own."""
    width = _one_each(images, BLUR_PIXELS_RANGE, generator).flatten(1)
    places = torch.arange(-BLUR_REACH, BLUR_REACH + 1)
    line = torch.exp(-0.5 * (places / width).square())
    line = line / line.sum(dim=1, keepdim=True)
    kernels = (line[:, :, None] * line[:, None, :]).unsqueeze(1)
    padded = F.pad(images.transpose(0, 1), (BLUR_REACH,) * 4, mode="replicate")
    return F.conv2d(padded, kernels, groups=len(images)).transpose(0, 1)


def _averaged(images: Tensor, _: torch.Generator) -> Tensor:
    return (images + images.roll(1, dims=0)) / 2


def _patched(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns the images, each with a quarter of another one in it."""
    width, height = (length // 2 for length in images.shape[2:])
    x, y = (int(torch.randint(n + 1, (), generator=generator)) for n in (width, height))
    patched = images.clone()
    other = images.roll(1, dims=0)
    patched[..., x : x + width, y : y + height] = other[..., x : x + width, y : y + height]
    return patched


def _one_each(images: Tensor, bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Returns a random number between bounds for each image, ``(N, 1, 1, 1)``."""
    low, high = bounds
    return low + (high - low) * torch.rand((len(images), 1, 1, 1), generator=generator)


CHANGES: tuple[Callable[[Tensor, torch.Generator], Tensor], ...] = (
    _unchanged,
    _mirrored,
    _upside_down,
    _shifted,
    _noisy,
    _blurred,
    _averaged,
    _patched,
)


class ChangeNetwork(nn.Module):
    """Tells by which of ``CHANGES`` an image was changed, from ``NUM_FEATURES`` features of it."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((1, *CHANNELS), CHANNELS, strict=False):
            layers.append(nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1))
            layers += [nn.GroupNorm(NUM_NORM_GROUPS, after), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.features = nn.Linear(CHANNELS[-1] * FEATURE_PLACES**2, NUM_FEATURES)
        self.head = nn.Linear(NUM_FEATURES, len(CHANGES))

    def features_of(self, images: Tensor) -> Tensor:
        """Returns features ``(N, NUM_FEATURES)`` of images ``(N, 1, *S)`` of two axes."""
        places = F.adaptive_avg_pool2d(self.body(images), FEATURE_PLACES)
        found: Tensor = self.features(places.flatten(start_dim=1))
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Returns a logit for each change, ``(N, len(CHANGES))``."""
        logits: Tensor = self.head(F.silu(self.features_of(images)))
        return logits


@dataclass(frozen=True)
class SecondJudge:
    """A trained network.

    Attributes:
        accuracy_fraction: of held-out images whose change it names; by chance one of eight.
    """

    network: ChangeNetwork
    accuracy_fraction: float

    @torch.inference_mode()
    def features(self, images: Tensor) -> np.ndarray:
        """Returns features ``(N, P, S, D)`` of images ``(N, 1, *size)`` in [-1, 1].

        Of P planes, 1 or 3, with S slices each.
        """
        slices = planes_of(images.float().cpu())
        rows = [self._rows(plane.flatten(0, 1)).view(*plane.shape[:2], -1) for plane in slices]
        return torch.stack(rows, dim=1).double().numpy()

    def _rows(self, images: Tensor) -> Tensor:
        return torch.cat(
            [self.network.features_of(part) for part in torch.split(images, COMPUTED_TOGETHER)]
        )


def planes_of(images: Tensor) -> list[Tensor]:
    """Returns slices ``(N, S, 1, *S2)`` of images ``(N, 1, *size)`` along each plane.

    An image of two axes is its only slice. Of a volume each plane gives slices of its middle half.
    """
    if images.ndim == 4:
        return [images.unsqueeze(1)]
    return [_slices_across(images, axis) for axis in (2, 3, 4)]


def _slices_across(volumes: Tensor, axis: int) -> Tensor:
    length = volumes.shape[axis]
    chosen = torch.linspace(length // 4, length - 1 - length // 4, NUM_SLICES).round().long()
    return volumes.index_select(axis, chosen).movedim(axis, 1)


def train_second_judge(
    training: Tensor, held_out: Tensor, *, iterations: int = ITERATIONS
) -> SecondJudge:
    """Returns a network trained to tell what was done to real images ``(N, 1, *size)``.

    Args:
        training: real images in [-1, 1].
        held_out: of other patients; the network's accuracy is measured on them.
        iterations: of the training.
    """
    generator = seeded_generator(b"second judge")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        network = ChangeNetwork()
    by_plane = [plane.flatten(0, 1) for plane in planes_of(training.float().cpu())]
    adam = Adam(network.parameters(), lr=LEARNING_RATE)
    for step in range(iterations):
        slices = by_plane[step % len(by_plane)]
        chosen = torch.randint(len(slices), (IMAGES_PER_ITERATION,), generator=generator)
        images, answers = _changed(slices[chosen], generator)
        for group in adam.param_groups:
            group["lr"] = LEARNING_RATE * learning_rate_factor(step, iterations)
        adam.zero_grad()
        F.cross_entropy(network(images), answers).backward()  # type: ignore[no-untyped-call]
        adam.step()
    return SecondJudge(network.eval(), _accuracy_fraction(network, held_out, generator))


def _changed(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns images, an equal part of them changed in each way, and the way of each."""
    answers = torch.arange(len(images)) % len(CHANGES)
    changed = [
        change(images[answers == way], generator)
        for way, change in enumerate(CHANGES)
        if way < len(images)
    ]
    return torch.cat(changed), answers.sort(stable=True).values


@torch.inference_mode()
def _accuracy_fraction(
    network: ChangeNetwork, held_out: Tensor, generator: torch.Generator
) -> float:
    """Returns the share of held-out slices, each changed in every way, whose change is named."""
    right = []
    for plane in planes_of(held_out.float().cpu()):
        for part in torch.split(plane.flatten(0, 1), COMPUTED_TOGETHER):
            for way, change in enumerate(CHANGES):
                right.append(network(change(part, generator)).argmax(dim=1) == way)
    return torch.cat(right).float().mean().item()
