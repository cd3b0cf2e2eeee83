"""What the paper ran, as far as it says, and a command's parameters with these numbers in them.

Source: arXiv:2407.14892, sections 2.1, 2.2, 2.4 and 3.2 to 3.4.
"""

from dataclasses import fields, replace
from typing import Any, TypeVar

from ldm_project.config import ABSOLUTE, AUTO, DIFFUSION, RunConfig
from ldm_project.parsing import size_text

ConfigT = TypeVar("ConfigT", bound=RunConfig)

PAPER_PRESET = "paper"
# 6000 iterations, 50 epochs and 120 scans agree for one scan an iteration only.
BATCH_SIZE = 1
ITERATIONS_PER_EPOCH = 120
NUM_EPOCHS = 50
NUM_SAMPLES = 50
REFERENCE_SIZE = {2: (256, 256), 3: (192, 192, 192)}  # section 3.2
SAMPLER = "ddpm"  # all timesteps of the schedule can be its steps, of which it trains 1000


def with_preset(config: ConfigT) -> ConfigT:
    """Returns the parameters with the preset's value for each that was left at its default.

    A value that differs from the default was given, and stays. Widths and denoising steps, in which
    the paper's models differ, are never set.
    """
    if config.preset == AUTO:
        return config
    of_paper: dict[str, Any] = {
        "size": size_text(REFERENCE_SIZE.get(config.dims, ())) or AUTO,
        "batch_size": str(BATCH_SIZE),
        "iterations": NUM_EPOCHS * ITERATIONS_PER_EPOCH,
        "objective": DIFFUSION,
        "loss": ABSOLUTE,
        "gradient_checkpointing": "off",
        "num_samples": str(NUM_SAMPLES),
        "sampler": SAMPLER,
    }
    changed = {
        item.name: of_paper[item.name]
        for item in fields(config)
        if item.name in of_paper and getattr(config, item.name) == item.default
    }
    return replace(config, **changed)
