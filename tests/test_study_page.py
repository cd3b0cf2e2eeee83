"""docs/study.md: made from the study that is kept, and right by another arithmetic in plain SQL."""

import math
import re
import sqlite3
from contextlib import closing
from statistics import fmean, stdev

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from benchmarks import study_page
from benchmarks.study_database import keep_study, opened
from mlflow_carbon.cli import cli
from mlflow_carbon.contract import keys, study_tags
from mlflow_carbon.errors import NoRunsError
from tests.fakes.metered_runs import write_run

MOST_BYTES = 1_000_000
KG_PER_KWH = 0.251 * 1.55  # EU27 of the paper's Table 1, its PUE
DIGITS = 0.006  # relative: three digits are printed


@pytest.fixture(scope="module")
def kept():
    return study_page.read_kept(study_page.KEPT)


@pytest.fixture(scope="module")
def kept_of_gpu():
    return study_page.read_kept(study_page.KEPT_OF_GPU)


@pytest.fixture(scope="module")
def database():
    with opened(study_page.KEPT) as tracking_uri:
        path = tracking_uri.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path)) as connection:
            yield connection


def windows(database, task, size, model="tiny", *, processes=1, steps=None):
    """Returns energy in J and units of each window of one cell, read by plain SQL."""
    wanted = {
        "task": task,
        "size": size,
        "model_size": model,
        "num_processes": str(processes),
        **({} if steps is None else {"steps": str(steps)}),
    }
    conditions = " AND ".join(
        "run_uuid IN (SELECT run_uuid FROM params WHERE key = ? AND value = ?)" for _ in wanted
    )
    values = [text for pair in wanted.items() for text in pair]
    # of each window a store keeps the energy so far at its beginning, with the step of the window
    # before, and at its end; all windows of a cell are of as many units
    rows = database.execute(
        "WITH curve AS (SELECT run_uuid, step, 3.6e6 * min(value) AS at_end, 3.6e6 * max(value) "
        "AS at_start FROM metrics WHERE key = 'carbon/energy_kwh' GROUP BY run_uuid, step) "
        "SELECT until.at_end - since.at_start, CAST(units.value AS REAL) / windows.value "
        "FROM curve until JOIN curve since ON since.run_uuid = until.run_uuid "
        "AND since.step = until.step - 1 "
        "JOIN tags units ON units.run_uuid = until.run_uuid AND units.key = 'carbon.num_units' "
        "JOIN tags windows ON windows.run_uuid = until.run_uuid "
        "AND windows.key = 'carbon.num_windows' "
        "WHERE until.step <= CAST(windows.value AS INTEGER) AND until.run_uuid IN "
        f"(SELECT run_uuid FROM runs WHERE status = 'FINISHED' AND {conditions}) "
        "ORDER BY until.step",
        values,
    ).fetchall()
    assert len(rows) == 10, wanted  # of preset laptop; one cell, and none twice
    return rows


def joules(database, *cell, **more):
    rows = windows(database, *cell, **more)
    return sum(energy for energy, _ in rows) / sum(units for _, units in rows)


def ours(kept, quantity):
    """Returns the first number of our figure in the table."""
    (finding,) = [each for each in kept.findings if each.quantity.startswith(quantity)]
    return float(re.match(r"-?[\d.e+-]+", finding.ours)[0])


def slope(points):
    """Returns the slope of the least-squares line, by its textbook formula."""
    n = len(points)
    sum_x, sum_y = sum(x for x, _ in points), sum(y for _, y in points)
    sum_xy, sum_xx = sum(x * y for x, y in points), sum(x * x for x, _ in points)
    return (n * sum_xy - sum_x * sum_y) / (n * sum_xx - sum_x**2)


@pytest.mark.slow
def test_page_is_made_from_the_studies_that_are_kept(kept, kept_of_gpu):
    page = study_page.PAGE.read_text(encoding="utf-8")
    blocks = study_page.blocks_of(kept, kept_of_gpu)
    assert set(re.findall(r"<!-- made: (\w+) -->", page)) == set(blocks)
    assert study_page.filled(page, blocks) == page, "run: make study-page"


def test_figures_are_drawn_from_the_study_that_is_kept(kept):
    number = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")
    name = re.compile(r'(?:id="|#)[a-z]\w+')
    names = {path.stem for path in study_page.FIGURES.glob("*.svg")}
    assert names == {each.name for each in kept.illustrations}
    for each in kept.illustrations:
        kept_text = (study_page.FIGURES / f"{each.name}.svg").read_text(encoding="utf-8")
        # another machine's arithmetic may differ in the last digits, of which names are hashes
        stored, drawn = (name.sub("", text) for text in (kept_text, each.svg))
        assert number.sub("", stored) == number.sub("", drawn), "run: make study-page"
        pairs = zip(number.findall(stored), number.findall(drawn), strict=True)
        assert all(abs(float(a) - float(b)) < 0.05 for a, b in pairs), "run: make study-page"


def test_what_is_kept_is_small_whole_and_names_nobody(kept, database):
    assert study_page.KEPT.stat().st_size < MOST_BYTES
    assert (kept.study.preset, kept.study.state) == ("laptop", study_tags.DONE)
    assert all(cell.measured for cell in kept.study.cells)
    assert len(kept.study.cells) == kept.study.num_cells
    texts = database.execute(
        "SELECT value FROM tags UNION SELECT value FROM params UNION SELECT artifact_uri FROM runs "
        "UNION SELECT user_id FROM runs UNION SELECT artifact_location FROM experiments"
    ).fetchall()
    assert not [text for (text,) in texts if re.search(r"(^|\s)/\w|root|file:", text)]


@pytest.mark.parametrize(
    ("task", "dims", "axes", "steps"),
    [
        ("train", 2, (64, 96, 128, 192), None),
        ("synth", 2, (64, 96, 128, 192), 50),
        ("train", 3, (16, 32, 48, 64), None),
        ("synth", 3, (16, 32, 48, 64), 50),
    ],
)
def test_exponents_are_those_of_the_raw_tables(kept, database, task, dims, axes, steps):
    points = [
        (
            math.log(axis**dims),
            math.log(joules(database, task, "x".join([str(axis)] * dims), steps=steps)),
        )
        for axis in axes
    ]
    quantity = f"energy against voxels, {dims}D {task}"
    assert slope(points) == pytest.approx(ours(kept, quantity), rel=DIGITS, abs=5e-4)


def test_saving_of_steps_is_that_of_the_raw_tables(kept, database):
    points = [(n, joules(database, "synth", "32x32x32", steps=n)) for n in (5, 10, 20, 50)]
    step = slope(points)
    fixed = fmean(y for _, y in points) - step * fmean(x for x, _ in points)
    saving = 1 - (fixed + 200 * step) / (fixed + 1000 * step)
    assert saving == pytest.approx(ours(kept, "200 steps instead of 1000, 3D"), rel=DIGITS)


def test_ratios_are_those_of_the_raw_tables(kept, database):
    volumes = joules(database, "train", "64x64x64")
    slices = joules(database, "train", "192x192")
    assert volumes / slices == pytest.approx(
        ours(kept, "3D over 2D, largest sizes, train"), rel=DIGITS
    )
    large = joules(database, "synth", "64x64", "medium", steps=50)
    small = joules(database, "synth", "64x64", steps=50)
    quantity = "largest over smallest networks, 2D synth"
    assert large / small == pytest.approx(ours(kept, quantity), rel=DIGITS)
    four = joules(database, "train", "32x32x32", processes=4)
    one = joules(database, "train", "32x32x32")
    quantity = "4 processes over 1 at equal "
    assert four / one == pytest.approx(ours(kept, f"{quantity}iterations"), rel=DIGITS)
    assert four / one / 4 == pytest.approx(ours(kept, f"{quantity}samples"), rel=DIGITS)


def test_joules_and_kg_are_those_of_the_raw_tables(kept, database):
    rows = windows(database, "train", "64x64x64")
    mean = sum(energy for energy, _ in rows) / sum(units for _, units in rows)
    spread = stdev(energy / units for energy, units in rows)  # windows are equally long
    (finding,) = [
        f for f in kept.findings if f.quantity == "train 3D 64x64x64 tiny: J per iteration"
    ]
    assert finding.ours == f"{mean:.3g} ± {spread:.2g}"
    # 0.74 kg / (0.251 kg/kWh x 1.55 x 150,000) = 45.65 J
    assert finding.ratio == pytest.approx(mean / 45.65, rel=1e-3)
    kg = mean / 3.6e6 * 150_000 * KG_PER_KWH
    mass = "train 3D 64x64x64 tiny: kg CO2e of 150,000 iterations"
    assert kg == pytest.approx(ours(kept, mass), rel=DIGITS)


def test_what_the_study_took_is_that_of_the_raw_tables(kept, database):
    (start_ms, end_ms) = database.execute(
        "SELECT start_time, end_time FROM runs WHERE run_uuid IN "
        "(SELECT run_uuid FROM tags WHERE key = 'study.preset')"
    ).fetchone()
    # the run's energy so far is largest at its end
    (energy_kwh,) = database.execute(
        "SELECT sum(total) FROM (SELECT max(value) AS total FROM metrics "
        "WHERE key = 'carbon/energy_kwh' GROUP BY run_uuid)"
    ).fetchone()
    assert study_page.tables_of(kept)["took"].startswith(
        f"It took {(end_ms - start_ms) / 60_000:.1f} min from its start to its end, its cells "
        f"{energy_kwh * 1e6:.3g} mWh of IT energy, {energy_kwh * KG_PER_KWH * 1e6:.3g} mg CO2e."
    )


@pytest.mark.slow
def test_study_of_a_gpu_is_small_and_counted(kept_of_gpu):
    assert study_page.KEPT_OF_GPU.stat().st_size < MOST_BYTES
    measured = [cell for cell in kept_of_gpu.study.cells if cell.measured]
    assert len(measured) == 19
    with opened(study_page.KEPT_OF_GPU) as tracking_uri:
        path = tracking_uri.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path)) as database:
            tags = "SELECT count(*) FROM tags WHERE key = 'carbon.method.gpu' AND value = ?"
            (num_counted,) = database.execute(tags, (keys.METHOD_COUNTER,)).fetchone()
    assert num_counted == len(measured)


def study_of_one_cell(joules_per_unit):
    """Writes a study with one cell to the store that is current; returns its run's id."""
    tags = {study_tags.TAG_STUDY: "digest", study_tags.TAG_STATE: study_tags.DONE}
    tags[study_tags.TAG_PROCESS] = "{}"
    parent = write_run(MlflowClient(), "study", windows=[], name="study", tags=tags)
    params = {"task": "train", "dims": "2", "size": "64x64", "model_size": "tiny"}
    params |= {"num_processes": "1", "batch_size": "1"}
    cell = {study_tags.TAG_CELL: "a cell", study_tags.TAG_STATE: study_tags.DONE}
    write_run(
        MlflowClient(),
        "study",
        windows=[(joules_per_unit / 3.6e6, 1)] * 2,
        unit="iteration",
        name="a cell",
        params=params,
        tags={**cell, keys.TAG_HARDWARE: "1x test", "who": "somebody"},
        parent_run_id=parent,
    )
    return parent


@pytest.mark.slow
def test_study_that_is_kept_reads_as_in_its_store(store, tmp_path):
    first, _second = study_of_one_cell(7.0), study_of_one_cell(9.0)
    write_run(MlflowClient(), "other", windows=[(1e-3, 1)] * 2)
    path, kept_path = tmp_path / "mlflow.db", tmp_path / "kept.db.xz"
    assert keep_study(path, kept_path, first) == 2
    before = CliRunner().invoke(cli, ["study-report", first, "--format", "csv"])
    with opened(kept_path) as tracking_uri:
        arguments = ["study-report", "--tracking-uri", tracking_uri, "--format", "csv"]
        after = CliRunner().invoke(cli, arguments)
        with closing(sqlite3.connect(tracking_uri.removeprefix("sqlite:///"))) as connection:
            tags = {key for (key,) in connection.execute("SELECT DISTINCT key FROM tags")}
    assert (after.exit_code, after.stdout) == (0, before.stdout)
    assert "a cell: J per iteration" in after.stdout
    assert not tags & {"who", study_tags.TAG_PROCESS, "mlflow.user"}


def test_store_without_that_study_is_one_clear_error(store, tmp_path):
    study_of_one_cell(7.0)
    with pytest.raises(NoRunsError, match="No study whose run is 'f' in this store"):
        keep_study(tmp_path / "mlflow.db", tmp_path / "kept.db.xz", "f")
