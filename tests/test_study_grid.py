"""The grid of a study: its cells, what can be given, and what they need and will take."""

import json
from pathlib import Path

import pytest
import torch

from ldm_project.config import StudyConfig
from ldm_project.diffusion.flops import weights_of
from ldm_project.diffusion.memory import Memory, Work, sampling_bytes, training_bytes
from ldm_project.diffusion.models import ModelSpec
from ldm_project.diffusion.sampling import denoise
from ldm_project.errors import InvalidInputError
from ldm_project.study import work
from ldm_project.study.cells import Cell, grid_of
from ldm_project.study.memory import memory_of
from ldm_project.study.outlook import Outlook, Seen, outlook, tflop_per_unit, total
from ldm_project.study.presets import STUDIES
from ldm_project.study.study_settings import resolved, study_settings
from ldm_project.study.work import Place, spec_of_cell, work_of

MEASURED = Path(__file__).parent.parent / "benchmarks" / "measured"
PLACE = Place(device=torch.device("cpu"), precision="fp32", sampler="ddpm", seed=0)


def names(**parameters):
    return [cell.name for cell in study_settings(StudyConfig(**parameters)).cells]


def cell(**values):
    usual = {"task": "train", "dims": 2, "size": (16, 16), "model_size": "tiny"}
    counts = {"num_windows": 3, "num_warmup_windows": 2, "units_per_window": 4}
    return Cell(**{**usual, **counts, **values})


def test_paper_preset_is_what_the_paper_ran():
    cells = grid_of(STUDIES["paper"])
    trained = {each.size for each in cells if each.task == "train"}
    assert trained == {
        *((192, 192), (256, 256), (320, 320), (512, 512)),
        *((64, 64, 64), (128, 128, 128), (192, 192, 192), (256, 256, 192)),
    }
    assert {each.size for each in cells if each.model_size == "large"} == {(256, 256), (192,) * 3}
    assert {each.steps for each in cells} == {None, 50, 100, 200, 500, 1000}
    assert {(each.num_processes, each.task) for each in cells} >= {(1, "train"), (4, "train")}
    # 50 epochs of 120 iterations, 50 samples (sections 2.2 and 2.4)
    assert {
        (each.num_windows, each.units_per_window) for each in cells if each.task == "train"
    } == {(50, 120)}
    assert {
        (each.num_windows, each.units_per_window) for each in cells if each.task == "synth"
    } == {(50, 1)}


@pytest.mark.parametrize("preset", STUDIES)
def test_every_cell_has_a_name_of_its_own_and_networks_that_can_be_built(preset):
    cells = study_settings(StudyConfig(preset=preset)).cells
    assert len({each.name for each in cells}) == len(cells)
    # each axis is there in each preset: sizes, models, steps, processes, in 2D and 3D
    for dims in (2, 3):
        of_dims = [each for each in cells if each.dims == dims]
        assert len({each.size for each in of_dims}) >= 3
        assert len({each.model_size for each in of_dims}) >= 2
        assert len({each.steps for each in of_dims}) >= 4


def test_any_axis_can_be_given():
    # 2 sizes; the first one is the reference, since the preset's is not given: 1 further step
    # count there, 1 model size and no processes
    assert names(sizes="32,48", dims="2", steps="5,10", model_sizes="tiny", num_processes="1") == [
        "train 2D 32x32 tiny",
        "train 2D 48x48 tiny",
        "synth 2D 32x32 tiny 10 steps",
        "synth 2D 48x48 tiny 10 steps",
        "synth 2D 32x32 tiny 5 steps",
    ]


def test_a_number_is_a_size_of_slices_and_of_volumes():
    given = names(sizes="16,16x24", tasks="train", model_sizes="tiny", num_processes="1,2")
    assert given == [
        "train 2D 16x16 tiny",
        "train 2D 16x24 tiny",
        "train 3D 16x16x16 tiny",
        "train 3D 16x16x16 tiny 2 processes",
    ]


def test_resolved_parameters_say_what_auto_becomes():
    told = resolved(study_settings(StudyConfig(dims="3")))
    assert told["sizes"] == "16x16x16,24x24x24,32x32x32"
    assert told["num_processes"] == "1,4"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"preset": "night"}, "preset is 'night'; use one of ci, laptop, paper."),
        ({"tasks": "sleep"}, "tasks is 'sleep'; use train or synth, or both."),
        ({"dims": "4"}, "dims is '4'; use 2 (slices), 3 (volumes), or 2,3."),
        ({"sizes": "64x64", "dims": "3"}, "sizes has '64x64', but dims is 3"),
        ({"sizes": "20"}, "20 is not divisible by 8"),
        ({"model_sizes": "huge"}, "model_size is 'huge'"),
        ({"steps": "0"}, "steps is '0'; give a whole number above zero"),
        ({"steps": "2000"}, "steps is 2000; give 1 to 1000"),
        ({"windows": "1"}, "windows is 1; one window has no spread, so give 2 or more."),
        ({"carbon_budget_kg": "-1"}, "carbon_budget_kg is '-1'; give kg CO2e above 0, or auto."),
    ],
)
def test_bad_parameter_is_named_with_its_value_and_its_fix(parameters, message):
    with pytest.raises(InvalidInputError) as caught:
        study_settings(StudyConfig(**parameters))
    assert message in str(caught.value)


def test_cell_comes_back_from_json():
    original = cell(task="synth", size=(16, 16, 8), dims=3, steps=7)
    assert Cell.from_dict(json.loads(json.dumps(original.to_dict()))) == original


def test_studies_of_different_cells_have_different_digests():
    digests = [
        study_settings(StudyConfig(**parameters)).digest
        for parameters in ({}, {"windows": "9"}, {"sampler": "ddim"}, {"region": "SE"})
    ]
    assert len(set(digests[:3])) == 3
    assert digests[0] == digests[3]  # the price of a cell does not change what is computed


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("task", ["train", "synth"])
def test_work_does_each_unit_once(task, dims):
    steps = None if task == "train" else 2
    short = cell(task=task, dims=dims, size=(16,) * dims, steps=steps, num_windows=1)
    # 2 windows of warm-up and 1 that is measured, 4 units each
    assert sum(work_of(short, PLACE)) == 12


def test_samples_of_a_batch_count_together():
    batched = cell(task="synth", steps=1, batch_size=2, units_per_window=2)
    assert list(work_of(batched, PLACE)) == [2] * 5


@pytest.mark.slow
def test_arithmetic_of_four_processes_is_that_of_four_images():
    alone, four = (tflop_per_unit(cell(num_processes=n), {}) for n in (1, 4))
    assert four == pytest.approx(4 * alone)


def test_outlook_takes_the_rate_of_the_nearest_work_of_the_task():
    # 5 windows of 4 units, 20 in all, 2 TFLOP each
    seen = [Seen("train", 1.0, 3.0, 0.5), Seen("train", 100.0, 1.0, 0.5), Seen("synth", 2, 9, 9)]
    assert outlook(cell(), 2.0, seen) == Outlook(20 * 2 * 3.0, 20 * 2 * 0.5)


def test_outlook_without_energy_or_work_is_unknown():
    assert outlook(cell(), 2.0, [Seen("train", 1.0, 3.0, None)]) == Outlook(120.0, None)
    assert outlook(cell(), 2.0, [Seen("synth", 1.0, 3.0, 1.0)]) == Outlook(None, None)
    assert total([Outlook(1.0, 2.0), Outlook(3.0, None)]) == Outlook(4.0, None)


def measured_peaks():
    """Yields each training of the paper that an H100 has run, with its precision and peak."""
    for row in map(json.loads, (MEASURED / "h100" / "grid.jsonl").read_text().splitlines()):
        if row["what"] == "train iteration" and "peak_bytes" in row:
            size = tuple(int(axis) for axis in row["size"].split("x"))
            shape = {"dims": row["dims"], "size": size, "model_size": row["model"]}
            yield cell(**shape), row["precision"], row["peak_bytes"]


@pytest.mark.slow
def test_memory_of_a_training_is_within_a_fifth_of_the_peaks_measured_on_a_gpu():
    # the smallest and the largest of the paper's sizes, each with the three networks
    sizes = {(320, 320), (512, 512), (64, 64, 64), (256, 256, 192)}
    rows = [row for row in measured_peaks() if row[0].size in sizes]
    assert len(rows) == 12
    for each, precision, peak_bytes in rows:
        needed_bytes = training_bytes(spec_of_cell(each), Work(1, precision, "cuda"))
        assert 0.8 < needed_bytes / peak_bytes < 1.2, each.name


@pytest.mark.slow
def test_memory_of_a_sampling_is_within_a_tenth_of_the_peaks_measured_on_a_gpu():
    rows = [*map(json.loads, (MEASURED / "h200" / "peaks.jsonl").read_text().splitlines())]
    assert len(rows) == 6
    for row in rows:
        size = tuple(int(axis) for axis in row["size"].split("x"))
        each = cell(task="synth", dims=len(size), size=size, model_size=row["model"])
        work = Work(row["batch"], row["precision"], "cuda")
        needed_bytes = sampling_bytes(spec_of_cell(each), work)
        assert 0.9 < needed_bytes / row["peak_bytes"] < 1.1, each.name


def test_a_synthesis_warms_up_by_samples_of_a_few_steps(monkeypatch):
    sampled = []

    def counting(unet, latents, *, steps, **options):
        sampled.append(steps)
        return denoise(unet, latents, steps=steps, **options)

    monkeypatch.setattr(work, "denoise", counting)
    synthesis = cell(task="synth", steps=7, num_windows=2, units_per_window=1)
    assert list(work_of(synthesis, PLACE)) == [1, 1, 1, 1]
    assert sampled == [work.WARMUP_STEPS] * 2 + [7] * 2
    assert synthesis.num_units == 2  # as the forecast counts them
    assert cell(num_windows=2, units_per_window=1).num_units == 4  # a training's are whole


@pytest.mark.slow
def test_processes_share_the_memory_of_a_computer():
    spec, cpu = ModelSpec(2, (16, 16), "tiny"), torch.device("cpu")
    alone, four = (
        memory_of(cell(num_processes=n), spec, device=cpu, precision="fp32") for n in (1, 4)
    )
    # each also keeps a copy of its gradients, in fp32, to exchange them
    copy_bytes = 4 * weights_of(spec).unet
    assert four.needed_bytes == 4 * (alone.needed_bytes + copy_bytes)
    assert alone.fits
    assert not Memory(needed_bytes=2, free_bytes=1).fits
