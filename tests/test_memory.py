"""Out of memory: one error that names the settings to lower; other errors stay what they are."""

import pytest
import torch

from ldm_project.errors import InvalidInputError
from ldm_project.runs.commands import memory_explained


def test_memory_that_a_computer_lacks_names_what_to_lower():
    with (
        pytest.raises(InvalidInputError, match=r"Lower batch_size=, then size="),
        memory_explained(),
    ):
        torch.empty(2**50)  # 4 PiB of float32


def test_memory_that_a_gpu_lacks_names_what_to_lower():
    with pytest.raises(InvalidInputError, match=r"CUDA out of memory.*Lower"), memory_explained():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def test_other_runtime_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), memory_explained():
        raise RuntimeError("shapes differ")
