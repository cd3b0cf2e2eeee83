"""Memory: what is foretold is what work takes; a lack of it names the settings to lower."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from benchmarks.memory_peaks import cell_of
from benchmarks.memory_table import MemoryRow, summary_line, table_lines
from ldm_project.config import EstimateConfig
from ldm_project.diffusion.cpu_convolutions import PackedConvolution
from ldm_project.diffusion.live_bytes import Used, counted
from ldm_project.diffusion.memory import (
    Memory,
    Work,
    _cpu_workspace,
    sampling_bytes,
    training_bytes,
)
from ldm_project.diffusion.models import ModelSpec
from ldm_project.errors import InvalidInputError
from ldm_project.resolution import estimate_settings
from ldm_project.runs.commands import memory_explained
from ldm_project.runs.estimate import MemoryForecast, check_memory, memory_lines
from ldm_project.study.memory import needed_by
from ldm_project.study.work import spec_of_cell

GB = 10**9
LIMIT_BYTES = 8 * GB
FLAT = ModelSpec(2, (32, 32), "tiny")
ON_CPU = Work(1, "fp32", "cpu")


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


def nothing(_name, _inputs, _outputs):
    return Used()


def test_tensors_count_from_their_making_to_their_end_and_views_once():
    with counted(nothing) as live:
        first = torch.zeros(1000)  # 4000 bytes
        live.begin()
        view = first[:10]
        second = torch.zeros(500)  # 2000 bytes
        del second
        third = first + 1  # 4000 bytes
        assert (live.now, live.peak) == (8000, 8000)
        del first  # of which the view is still there
        assert live.now == 8000
        del view, third
        assert live.now == 0


def test_heap_keeps_some_of_what_it_had_beside_tensors_with_pages_of_their_own():
    with counted(nothing, kept_bytes=6000) as live:
        small = torch.zeros(2000)  # 8000 bytes
        assert live.now == 8000
        del small
        large = torch.zeros(2**23)  # 32 MiB
        assert live.now == large.nbytes + 6000


def test_a_kernel_counts_what_it_works_in_while_it_computes():
    with counted(lambda name, _inputs, _outputs: Used(100 if name == "add" else 0)) as live:
        one = torch.zeros(1)
        assert live.peak == 4
        one + one
    assert live.peak == 4 + 4 + 100


def test_packed_convolution_needs_no_memory_but_its_results():
    """Measured: 1.00 times them; the plain one takes copies of its images and results beside."""
    peaks = []
    for kind in (nn.Conv3d, lambda *sizes: PackedConvolution(nn.Conv3d(*sizes))):
        with counted(partial(_cpu_workspace, is_training=False)) as live, torch.inference_mode():
            convolution = kind(16, 32, 1)
            images = torch.zeros(2, 16, 8, 8, 8).contiguous(memory_format=torch.channels_last_3d)
            convolution(images)  # packs its weights
            live.begin()
            before = live.now
            result = convolution(images)
            peaks.append((live.peak - before) / result.nbytes)
    assert peaks == [pytest.approx(2, rel=0.01), 1]


@pytest.mark.slow
def test_memory_of_a_training_grows_with_the_batch_and_shrinks_by_computing_twice():
    few, many = (training_bytes(FLAT, replace(ON_CPU, batch_size=n)) for n in (8, 64))
    twice = training_bytes(FLAT, replace(ON_CPU, batch_size=64, checkpoints_gradients=True))
    assert few < twice < many


@pytest.mark.slow
def test_memory_of_a_gpu_has_no_holes_but_more_in_full_precision_norms():
    narrow = replace(ON_CPU, precision="bf16", batch_size=256, device_type="cuda")
    wide = replace(narrow, precision="fp32")
    assert training_bytes(FLAT, narrow) < training_bytes(FLAT, wide)
    assert 70e6 < sampling_bytes(FLAT, narrow) < sampling_bytes(FLAT, wide)  # 70: the libraries


def test_memory_that_is_missing_is_said_in_gb():
    assert Memory(2 * GB, 2 * GB).shortage == ""
    text = "needs about 3.5 GB of memory, 2 GB are free"
    assert Memory(3_500_000_000, 2 * GB).shortage == text


def test_estimate_refuses_a_sampling_that_does_not_fit_with_the_gb_it_needs():
    settings = estimate_settings(EstimateConfig(size="512", model_size="large", batch_size="2"))
    forecast = MemoryForecast(training=Memory(9 * GB, GB), sampling=Memory(4 * GB, GB))
    with pytest.raises(InvalidInputError) as caught:
        check_memory(forecast, settings)
    assert str(caught.value).startswith(
        "Sampling 2 of 512x512 together with model_size large needs about 4 GB of memory, 1 GB "
        "are free. Lower batch_size="
    )


def test_estimate_says_that_a_training_does_not_fit():
    settings = estimate_settings(EstimateConfig(batch_size="4"))
    forecast = MemoryForecast(training=Memory(9 * GB, 2 * GB), sampling=Memory(GB, 2 * GB))
    check_memory(forecast, settings)
    assert memory_lines(forecast, settings) == [
        "memory  1 GB to sample 4 together",
        "        9 GB to train the UNet on 8 together: does not fit, 2 GB are free",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "size", "model_size", "precision"),
    [
        ("train", (64, 64), "small", "fp32"),
        ("synth", (64, 64), "medium", "fp32"),
        ("train", (32, 32, 32), "small", "fp32"),
        ("synth", (64, 64, 64), "tiny", "fp32"),
    ],
)
def test_forecast_is_within_a_fifth_of_what_a_process_takes(task, size, model_size, precision):
    cell = cell_of(task, size, model_size)
    arguments = [json.dumps(cell.to_dict()), precision, str(LIMIT_BYTES)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory_child", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    forecast_bytes = needed_by(cell, spec_of_cell(cell), precision=precision, device_type="cpu")
    assert 0.8 < forecast_bytes / json.loads(done.stdout)["peak_bytes"] < 1.2


def test_table_has_forecast_and_peak_or_why_there_is_none():
    row = MemoryRow("cpu", "train", "64x64", "tiny", "fp32", 2 * GB)
    rows = [row.with_peak(4 * GB), replace(row, task="synth").without_peak("does not fit")]
    assert list(table_lines(rows, "cpu"))[2:] == [
        "| 64x64 | `tiny` | sampling | fp32 | 2 | does not fit | - |",
        "| 64x64 | `tiny` | training | fp32 | 2 | 4 | 0.50 |",
    ]
    assert summary_line(rows, "cpu") == (
        "0 of 1 forecasts lie within 20 %. Outside: training `tiny` at 64x64."
    )
