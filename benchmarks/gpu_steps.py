"""Measures one denoising step on a GPU in several ways: what each change of ours takes off.

Run it as ``python -m benchmarks.gpu_steps benchmarks/measured/h200/steps.jsonl``, in a minute and a
half; ``python -m benchmarks.gpu_grid_page`` then writes the page. Each way is timed for a second by
the GPU's own energy counter, which moves every 100 ms. The networks are untrained.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, cast

import pynvml
import torch
from torch import Tensor, nn

from ldm_project.diffusion.acceleration import BF16, autocast, channels_last, prepared
from ldm_project.diffusion.gpu_sampling import (
    ReplayedUnet,
    WholeUnet,
    use_channels_last_norms,
)
from ldm_project.diffusion.models import ModelSpec, build_unet
from ldm_project.parsing import size_text

SIZES = ((256, 256, 192), (64, 64, 64), (512, 512))
COMPILED_SIZE = (256, 256, 192)  # compiling takes most of a minute
MODEL_SIZE = "medium"
AT_LEAST_S = 1.0
NUM_UNTIMED, NUM_TOGETHER = 3, 5

Row = dict[str, Any]


class AutocastUnet(nn.Module):
    """A UNet whose weights stay in fp32, as sampling had it before."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        """Returns the velocity of latents, both ``(B, C, *S)``, at timesteps ``(B,)``."""
        with autocast(latents.device, BF16):
            return cast(Tensor, self.unet(latents, timesteps))


def ways(unet: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields copies of a UNet on a GPU that compute in one way each, by its name."""
    yield "autocast", AutocastUnet(with_channels_last(unet))
    yield "bf16", WholeUnet(deepcopy(unet).bfloat16())
    yield "bf16, channels last", WholeUnet(with_channels_last(unet).bfloat16())
    with_norms = with_channels_last(unet).bfloat16()
    use_channels_last_norms(with_norms)
    yield "bf16, channels last, own norm", WholeUnet(with_norms)


def with_channels_last(unet: nn.Module) -> nn.Module:
    """Returns a copy of a UNet with its weights in the order of tensor cores."""
    copied = deepcopy(unet)
    channels_last(copied)
    return copied


@torch.inference_mode()
def rows(device: torch.device) -> Iterator[Row]:
    """Yields the cost and the error of a step in each way, kernel by kernel and recorded."""
    for size in SIZES:
        spec = ModelSpec(len(size), size, MODEL_SIZE)
        unet = random_unet(spec).to(device)
        latents = torch.randn(1, *spec.latent_shape, device=device)
        timesteps = torch.full((1,), 500, device=device)
        exact = unet(latents, timesteps)
        what = {"size": size_text(size), "model": MODEL_SIZE}
        for way, network in ways(unet):
            for launch, step in (("each", network), ("recorded", ReplayedUnet(network))):
                taken = cost_of_step(partial(step, latents, timesteps))
                error = (step(latents, timesteps).float() - exact).norm() / exact.norm()
                yield {"way": way, "launch": launch, **what, **taken, "error": error.item()}
        if size == COMPILED_SIZE:
            yield {"way": "bf16, channels last", "launch": "compiled", **what} | compiled_cost(
                prepared(unet, precision=BF16, is_compiled=True), latents, timesteps
            )


def random_unet(spec: ModelSpec) -> nn.Module:
    """Returns an untrained UNet without the zeros in which MONAI's last layers start."""
    torch.manual_seed(0)
    unet = build_unet(spec).eval().requires_grad_(False)
    for weight in unet.parameters():
        if not weight.any():
            weight.normal_(std=0.02)
    return unet


def compiled_cost(unet: nn.Module, latents: Tensor, timesteps: Tensor) -> Row:
    """Returns the cost of a step of a compiled UNet, and of compiling it."""
    start_s, start_j = time.perf_counter(), joules()
    for _ in range(2):  # the second step records
        unet(latents, timesteps)
    torch.cuda.synchronize()
    compiling = {"compile_s": time.perf_counter() - start_s, "compile_J": joules() - start_j}
    return cost_of_step(lambda: unet(latents, timesteps)) | compiling


def cost_of_step(step: Callable[[], object]) -> Row:
    """Returns the milliseconds and joules of a step, over a second of them."""
    for _ in range(NUM_UNTIMED):
        step()
    torch.cuda.synchronize()
    start_s, start_j, num, duration_s = time.perf_counter(), joules(), 0, 0.0
    while duration_s < AT_LEAST_S:
        for _ in range(NUM_TOGETHER):
            step()
        torch.cuda.synchronize()
        num += NUM_TOGETHER
        duration_s = time.perf_counter() - start_s
    return {"ms": duration_s / num * 1e3, "J": (joules() - start_j) / num, "num": num}


def joules() -> float:
    """Returns the energy counter of the first GPU, in J."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3


def main() -> None:
    """Writes a row a way to the file that is named."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m benchmarks.gpu_steps READINGS.jsonl")
    pynvml.nvmlInit()
    with Path(sys.argv[1]).open("w", encoding="utf-8") as file:
        for row in rows(torch.device("cuda")):
            file.write(json.dumps(row) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
