"""The reproduction table: against figures worked out by hand from the runs of a made-up study."""

import base64
import json
import math
import re

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from mlflow_carbon.cli import cli
from mlflow_carbon.contract import keys, study_tags
from mlflow_carbon.pictures.study_figures import image_size_figure
from mlflow_carbon.reporting.finding import (
    AGREES,
    DIFFERS,
    NOT_MEASURED,
    OTHER_MACHINE,
    TOO_SMALL,
)
from mlflow_carbon.reporting.paper_results import exponent, result_of
from mlflow_carbon.reporting.study_cells import find_study, read_study
from mlflow_carbon.reporting.study_findings import findings_of
from tests.fakes.metered_runs import write_run

KWH_PER_JOULE = 1 / 3.6e6


@pytest.fixture
def parent(store):
    """The parent run of a study without cells."""
    tags = {study_tags.TAG_STUDY: "digest", study_tags.TAG_STATE: study_tags.DONE}
    return write_run(MlflowClient(), "study", windows=[], name="study paper", tags=tags)


def write_cell(parent, task, size, joules, *, model="medium", steps=None, processes=1, **more):
    """Writes a cell whose unit takes some J, in two equal windows of 5 units; returns its run."""
    name = f"{task} {size} {model} {steps} {processes}"
    params = {
        "task": task,
        "dims": str(len(size)),
        "size": "x".join(map(str, size)),
        "model_size": model,
        "num_processes": str(processes),
        "batch_size": "1",
        "device": more.get("device", "cuda"),
        **({} if steps is None else {"steps": str(steps)}),
    }
    state = more.get("state", study_tags.DONE)
    tags = {study_tags.TAG_CELL: name, study_tags.TAG_STATE: state, keys.TAG_HARDWARE: "1x test"}
    if "other_load" in more:
        tags[keys.TAG_OTHER_LOAD] = more["other_load"]
    if "problem" in more:
        tags[study_tags.TAG_PROBLEM] = more["problem"]
    return write_run(
        MlflowClient(),
        "study",
        windows=[(5 * joules * KWH_PER_JOULE, 5)] * more.get("windows", 2) if joules else [],
        unit=more.get("unit", "iteration" if task == "train" else "sample"),
        name=name,
        params=params,
        tags=tags,
        parent_run_id=parent,
    )


def found(quantity):
    """Returns the one finding whose quantity begins so."""
    client = MlflowClient()
    study = read_study(client, find_study(client, None))
    (finding,) = [each for each in findings_of(study) if each.quantity.startswith(quantity)]
    return finding


def test_cell_of_one_window_is_too_small_to_tell(parent):
    write_cell(parent, "synth", (64, 64), 9.0, steps=1000, windows=1)
    finding = found("synth (64, 64) medium 1000 1: kg CO2e")
    assert (finding.verdict, finding.ours, finding.why) == (
        TOO_SMALL,
        "",
        "one window has no spread",
    )


def test_cell_without_windows_is_not_measured(parent):
    write_cell(parent, "synth", (64, 64), 9.0, steps=1000, windows=1, unit="minute")
    client = MlflowClient()
    (cell,) = read_study(client, find_study(client, None)).cells
    assert cell.measured is None
    assert cell.problem.startswith("every window was shorter")


def test_exponents_of_the_paper_are_those_between_its_printed_results():
    # ln(0.79 / 0.40) / ln(512² / 192²) = 0.347, and so on
    expected = {("train", 2): 0.35, ("synth", 2): 0.79, ("train", 3): 0.65, ("synth", 3): 1.06}
    for (task, dims), value in expected.items():
        paper = exponent(task, dims)
        assert paper.low < paper.high
        assert (paper.low + paper.high) / 2 == pytest.approx(value, abs=0.006)


def test_energy_that_the_paper_implies_is_its_mass_over_pue_and_intensity():
    # 362.3 kg / (251 g/kWh x 1.55 x 10,000) = 93.1 Wh
    result = result_of("synth", 3, is_largest=True)
    assert result.energy_kwh_per_unit == pytest.approx(0.0931, rel=1e-3)
    assert (result.kg, result.std_kg, result.size) == ("362.3", "1.0", (256, 256, 192))


@pytest.mark.parametrize(("power", "verdict"), [(0.35, AGREES), (0.6, DIFFERS)])
def test_exponent_is_that_of_the_cells(parent, power, verdict):
    for axis in (192, 256, 512):
        write_cell(parent, "train", (axis, axis), 10 * axis ** (2 * power))
    finding = found("energy against voxels, 2D train")
    assert (finding.ours, finding.verdict) == (f"{power:.3g}", verdict)
    assert len(finding.run_ids) == 3


def test_sizes_below_the_papers_are_too_small_to_tell(parent):
    for axis in (16, 32, 48):
        write_cell(parent, "train", (axis, axis), axis**0.7)
    finding = found("energy against voxels, 2D train")
    assert finding.verdict == TOO_SMALL
    assert "16x16 to 48x48; the paper's two: 192x192 and 512x512" in finding.why


@pytest.mark.parametrize(
    ("fixed", "saving", "verdict"),
    [
        (0, "0.8", AGREES),
        (100, "0.727", DIFFERS),  # 1 - (100 + 200) / (100 + 1000)
    ],
)
def test_saving_of_steps_is_fitted(parent, fixed, saving, verdict):
    for steps in (50, 200, 1000):
        write_cell(parent, "synth", (256, 256), fixed + steps, steps=steps)
    finding = found("200 steps instead of 1000, 2D")
    assert (finding.ours, finding.verdict) == (saving, verdict)
    assert "fitted to 50, 200, 1000 steps" in finding.why


def test_volumes_over_slices_is_the_ratio_of_the_largest(parent):
    write_cell(parent, "train", (512, 512), 50)
    write_cell(parent, "train", (256, 256, 192), 570)
    finding = found("3D over 2D, largest sizes, train")
    # 570 / 50 = 11.4; equal windows have no spread
    assert (finding.paper, finding.ours, finding.verdict) == ("11.4", "11.4 (11.4 to 11.4)", AGREES)
    assert finding.ratio == pytest.approx(11.4 / (9.0 / 0.79))


def test_model_sizes_are_compared_at_one_size(parent):
    for model, joules in (("small", 100), ("medium", 120), ("large", 135)):
        write_cell(parent, "train", (256, 256), joules, model=model)
    finding = found("largest over smallest networks, 2D train")
    assert (finding.ours, finding.verdict) == ("1.35 (1.35 to 1.35)", AGREES)
    assert found("largest over smallest networks, 2D synth").verdict == NOT_MEASURED


@pytest.mark.slow
def test_processes_are_compared_at_equal_iterations_and_at_equal_samples(parent):
    size = (192, 192, 192)
    write_cell(parent, "train", size, 100)
    write_cell(parent, "train", size, 360, processes=4)
    # an iteration of 4 processes takes 3.6 times as much for 4 times the images: 0.9 an image
    assert found("4 processes over 1 at equal iterations").ours.startswith("3.6 ")
    assert found("4 processes over 1 at equal iterations").verdict == AGREES
    assert found("4 processes over 1 at equal samples").ours.startswith("0.9 ")
    assert found("4 processes over 1 at equal samples").verdict == DIFFERS


def test_processes_on_one_cpu_cannot_tell(parent):
    write_cell(parent, "train", (192, 192, 192), 100, device="cpu")
    write_cell(parent, "train", (192, 192, 192), 360, processes=4, device="cpu")
    assert found("4 processes over 1 at equal samples").verdict == TOO_SMALL


def test_joules_and_mass_are_beside_the_papers(parent):
    run_id = write_cell(parent, "train", (512, 512), 40)
    joules = found(f"train {(512, 512)} medium None 1: J per iteration")
    # the paper's: 0.79 kg / (251 x 1.55 x 150,000) = 48.7 J
    assert (joules.paper, joules.ours, joules.verdict) == ("48.7", "40 ± 0", OTHER_MACHINE)
    assert joules.run_ids == (run_id,)
    mass = found(f"train {(512, 512)} medium None 1: kg CO2e of 150,000 iterations")
    # 40 J x 150,000 = 1.6667 kWh; x 1.5 x 250 g/kWh = 0.625 kg
    assert mass.ours == "0.625 ± 0 (0.625 to 0.625)"
    assert mass.ratio == pytest.approx(0.625 / 0.79)


@pytest.mark.parametrize(
    ("basis", "ratio", "verdict"),
    [
        ("the paper's Table 1", "95", AGREES),  # 666 / 7
        ("EEA as revised", "85", DIFFERS),  # 681 / 8
        ("Electricity Maps, life-cycle", "34", DIFFERS),  # 876 / 26
        ("Ember, life-cycle", "18", DIFFERS),  # 732 / 41
    ],
)
def test_regions_are_told_by_each_basis(parent, basis, ratio, verdict):
    finding = found(f"Poland over Sweden by {basis}")
    assert (finding.ours, finding.verdict) == (ratio, verdict)


def test_months_are_those_of_2022(parent):
    assert found("Germany 2022").ours == "1.45"  # 454.7 / 313.5


def test_steps_that_lie_far_below_the_papers_cannot_tell(parent):
    for steps in (5, 20, 50):
        write_cell(parent, "synth", (64, 64), 1 + steps, steps=steps)
    finding = found("200 steps instead of 1000, 2D")
    # 1 - (1 + 200) / (1 + 1000)
    assert (finding.ours, finding.verdict) == ("0.799", TOO_SMALL)
    assert "1 J + 1 J a step at 64x64, fitted to 5, 20, 50 steps" in finding.why


def test_report_says_what_the_study_took_and_what_ran_beside_it(parent):
    # 2 windows of 5 iterations of 360 J each are 3600 J, 1 Wh; x 1.5 x 250 g/kWh
    write_cell(parent, "train", (512, 512), 360, other_load="43% of the CPU")
    lines = CliRunner().invoke(cli, ["study-report"]).stdout.splitlines()
    assert re.fullmatch(
        r"It took [\d.]+ min from its start to its end, its cells 1 Wh of IT energy, "
        r"375 mg CO2e\.",
        lines[1],
    )
    assert lines[2] == "Machine: 1x test."
    assert lines[3].startswith("Other work used the machine beside 1 of 1 cells")


@pytest.mark.slow
def test_figures_are_in_the_page_and_in_a_folder(parent, tmp_path):
    for axis in (192, 256, 512):
        write_cell(parent, "train", (axis, axis), axis**0.7)
    arguments = ["study-report", "--format", "html", "--figures", str(tmp_path / "figures")]
    page = CliRunner().invoke(cli, arguments).stdout
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"image-size.svg"}
    drawing = (tmp_path / "figures" / "image-size.svg").read_bytes()
    assert base64.b64encode(drawing).decode() in page
    # nothing was synthesised, by one model and in one process
    assert page.count("<p>Not drawn: ") == 3
    assert "<p>Not drawn: no synthesis was measured.</p>" in page
    assert "<script" not in page


def test_figures_show_what_the_paper_would_have_emitted(parent):
    write_cell(parent, "train", (512, 512), 40)
    write_cell(parent, "synth", (64, 64, 64), 90, steps=1000)
    client = MlflowClient()
    cells = read_study(client, find_study(client, None)).cells
    slices, volumes = image_size_figure(cells).axes
    assert [text.get_text() for text in slices.get_xticklabels()] == ["512²", "192²"]
    lines = [tuple(map(list, line.lines[0].get_data())) for line in slices.containers]
    # 40 J x 150,000 / 3.6e6 J/kWh x 1.55 x 0.251 kg/kWh = 0.648 kg, and the paper's 0.40 and 0.79
    assert lines[0] == ([512 * 512], [pytest.approx(0.648, rel=1e-3)])
    assert lines[1] == ([192 * 192, 512 * 512], [0.40, 0.79])
    # 90 J x 10,000 / 3.6e6 J/kWh x 1.55 x 0.251 kg/kWh = 0.0973 kg
    lines = [tuple(map(list, line.lines[0].get_data())) for line in volumes.containers]
    assert ([64**3], [pytest.approx(0.0973, rel=1e-3)]) in lines


def test_cell_that_was_skipped_says_why(parent):
    write_cell(
        parent, "train", (512, 512), 0, state=study_tags.SKIPPED, problem="needs about 90 GB"
    )
    finding = found(f"train {(512, 512)}")
    assert (finding.verdict, finding.why) == (NOT_MEASURED, "skipped: needs about 90 GB")


def test_cell_that_was_done_again_counts_once(parent):
    write_cell(parent, "train", (512, 512), 0, state=study_tags.FAILED, problem="no memory")
    done = write_cell(parent, "train", (512, 512), 40)
    write_cell(parent, "train", (512, 512), 0, state=study_tags.INTERRUPTED)
    client = MlflowClient()
    (cell,) = read_study(client, find_study(client, None)).cells
    assert cell.run_id == done


@pytest.mark.slow
def test_command_prints_each_format(parent):
    for axis in (192, 256, 512):
        write_cell(parent, "train", (axis, axis), math.sqrt(axis))
    printed = {}
    for form in ("table", "csv", "json", "markdown", "html"):
        result = CliRunner().invoke(cli, ["study-report", "--format", form])
        assert result.exit_code == 0, result.output
        printed[form] = result.stdout
    lines = printed["table"].splitlines()
    assert lines[0].startswith("study paper: 3 of 3 cells measured, run ")
    # energy is the pixels to the power of a quarter
    assert (
        "differs       energy against voxels, 2D train: exponent\n"
        "              ours 0.25, paper 0.35, ratio 0.721\n"
    ) in printed["table"]
    assert re.search(r"\ntrain \(192, 192\) .+ 13\.9 ± 0 +24\.7 +0\.562\n", printed["table"])
    rows = json.loads(printed["json"])
    assert rows[0]["quantity"] == "energy against voxels, 2D train: exponent"
    assert len(rows[0]["run_ids"].split(",")) == 3
    assert "| energy against voxels, 2D train: exponent | 0.35 |" in printed["markdown"]
    assert "<td>energy against voxels, 2D train: exponent</td><td>0.35</td>" in printed["html"]
    assert "cannot be derived" in printed["html"]  # the paper's claims


def test_store_without_a_study_says_how_to_run_one(store):
    result = CliRunner().invoke(cli, ["study-report"])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "Error: No study in this store. Run one: mlflow run . -e study."
    )


def test_names_of_a_store_cannot_act_in_a_document(parent):
    MlflowClient().set_tag(parent, "mlflow.runName", "<script>alert(1)</script>")
    result = CliRunner().invoke(cli, ["study-report", "--format", "html"])
    assert "<script>" not in result.stdout
