"""Feature networks from a file: published ResNets that were trained on medical images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.nets import resnet
from torch import Tensor, nn

from ldm_project.errors import CheckpointError

RADIMAGENET_EDGE = 224  # pixels; the training size of its networks
COMPUTED_TOGETHER = 16
EPSILON = 1e-6

# The number of blocks in each stage, and whether they are bottlenecks.
BUILDERS: dict[tuple[tuple[int, ...], bool], Callable[..., nn.Module]] = {
    ((1, 1, 1, 1), False): resnet.resnet10,
    ((2, 2, 2, 2), False): resnet.resnet18,
    ((3, 4, 6, 3), False): resnet.resnet34,
    ((3, 4, 6, 3), True): resnet.resnet50,
    ((3, 4, 23, 3), True): resnet.resnet101,
    ((3, 8, 36, 3), True): resnet.resnet152,
}
# RadImageNet's files number the parts of torchvision's ResNet, MedicalNet's name them.
NAMES_BY_NUMBER = {
    "backbone.0.": "conv1.",
    "backbone.1.": "bn1.",
    **{f"backbone.{stage + 3}.": f"layer{stage}." for stage in (1, 2, 3, 4)},
}
HEADS = ("fc.", "conv_seg.")  # the output layers, left out: features are their input


@dataclass(frozen=True)
class FeatureNetwork:
    """A pre-trained ResNet."""

    network: nn.Module
    num_channels: int  # of the input; we give each channel the same grey image

    @property
    def dims(self) -> int:
        """2 for images, 3 for volumes."""
        return next(self.network.parameters()).ndim - 2

    @torch.inference_mode()
    def features(self, images: Tensor) -> np.ndarray:
        """Returns features ``(N, D)`` of images ``(N, 1, *S)`` in [-1, 1]."""
        device = next(self.network.parameters()).device
        rows = []
        for start in range(0, len(images), COMPUTED_TOGETHER):
            batch = images[start : start + COMPUTED_TOGETHER].float().to(device)
            batch = _as_trained_2d(batch) if self.dims == 2 else _as_trained_3d(batch)
            channels = batch.expand(-1, self.num_channels, *batch.shape[2:])
            rows.append(self.network(channels).cpu())
        return torch.cat(rows).double().numpy()


def load_feature_network(path: Path, dims: int, device: torch.device) -> FeatureNetwork:
    """Returns the network of a checkpoint: MedicalNet's in 3D, RadImageNet's ResNet-50 in 2D.

    Raises:
        CheckpointError: no such file, no known network in it, or one of other dimensions.

    Source: Chen, Ma & Zheng 2019 (arXiv:1904.00625), https://github.com/Tencent/MedicalNet;
        Mei et al. 2022 (10.1148/ryai.210315), https://github.com/BMEII-AI/RadImageNet.
    """
    state = _named_state(path)
    try:
        weight = state["conv1.weight"]
        network = _builder(state)(
            spatial_dims=weight.ndim - 2,
            n_input_channels=weight.shape[1],
            conv1_t_stride=2,
            shortcut_type="B" if any("downsample" in name for name in state) else "A",
            bias_downsample=any(name.endswith("downsample.0.bias") for name in state),
            feed_forward=False,
        )
        network.load_state_dict(dict(state))
    except (KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"features: {path} holds no ResNet of MedicalNet or RadImageNet ({reason}). "
            "Give one of their PyTorch files, or features=auto."
        ) from None
    found = FeatureNetwork(network.to(device).eval().requires_grad_(False), weight.shape[1])
    if found.dims != dims:
        raise CheckpointError(
            f"features: the network in {path} is for {found.dims}D images, and dims is {dims}. "
            "Give a MedicalNet file in 3D, a RadImageNet file in 2D, or features=auto."
        )
    return found


def _named_state(path: Path) -> Mapping[str, Tensor]:
    """Returns the weights, without heads, under the names that torchvision and MONAI use."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise CheckpointError(
            f"features: {path} cannot be read ({type(error).__name__}). "
            "Give a checkpoint of MedicalNet or RadImageNet, or features=auto."
        ) from None
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    named = {}
    for name, value in state.items():
        plain = name.removeprefix("module.")
        for number, own in NAMES_BY_NUMBER.items():
            plain = own + plain.removeprefix(number) if plain.startswith(number) else plain
        if not plain.startswith(HEADS):
            named[plain] = value
    return named


def _builder(state: Mapping[str, Tensor]) -> Callable[..., nn.Module]:
    """Returns the function that builds the ResNet of these weights; KeyError if unknown."""
    blocks = {tuple(name.split(".")[:2]) for name in state if name.startswith("layer")}
    depths = tuple(sum(stage == f"layer{number}" for stage, _ in blocks) for number in (1, 2, 3, 4))
    return BUILDERS[depths, "layer1.0.conv3.weight" in state]


def _as_trained_2d(images: Tensor) -> Tensor:
    """Returns images as RadImageNet's example prepares them: in [-1, 1], 224 x 224 pixels."""
    return F.interpolate(images, (RADIMAGENET_EDGE,) * 2, mode="bilinear", antialias=True)


def _as_trained_3d(volumes: Tensor) -> Tensor:
    """Returns volumes as MedicalNet expects them: each with mean 0 and std 1."""
    axes = tuple(range(1, volumes.ndim))
    centred = volumes - volumes.mean(dim=axes, keepdim=True)
    return centred / centred.std(dim=axes, keepdim=True).clamp(min=EPSILON)
