"""Runs read from the tables of a store are those that MLflow's search finds there."""

import hashlib
import math
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_SOURCE_TYPE

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.run_summary import FIGURE_TAGS, RunSummary, SummaryReader
from mlflow_carbon.errors import BadRecordError, NoRunsError
from mlflow_carbon.store.reflected import UnknownTablesError, reads_database, reflected_runs
from mlflow_carbon.store.run_source import RunSource
from mlflow_carbon.store.runs import read_runs
from mlflow_carbon.store.stored_runs import Scope, Wanted
from tests.fakes.metered_runs import copy_run, experiment_id, write_run
from tests.fakes.mlflow_server import mlflow_server
from tests.fakes.postgres import postgres_server

FINDING = (Phase.explicit, Phase.reuse, Phase.generate)  # a store is too slow to shrink with
WINDOWS = [(1e-6, 4.0), (1.4e-6, 4.0)]
PER_SAMPLE = keys.energy_kwh_per_unit("sample")

# No NUL: PostgreSQL takes none.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
words = st.sampled_from(["sample", "epoch", "", "2", "0.5", "-1", "nan", "cpu=1 x", "'a b'"])
numbers = st.one_of(
    st.floats(0, 10), st.sampled_from([math.nan, -1.0, 1.7976931348623157e308, 1.005, 0.1 + 0.2])
)
metric_keys = st.sampled_from(
    [
        keys.ENERGY_KWH,
        keys.CO2E_G,
        keys.CO2E_KG,
        keys.DURATION_S,
        keys.PUE,
        keys.INTENSITY_G_PER_KWH,
        keys.COVERAGE_FRACTION,
        PER_SAMPLE,
        keys.std_of(PER_SAMPLE),
        "carbon/energy_kwh_per_",
        "carbon/gpu/energy_kwh",
        "carbon/gpu/0/energy_kwh",
        "carbon/node/1/energy_kwh",
        "Carbon/energy_kwh",
        "loss",
    ]
)
tag_keys = st.sampled_from(
    [
        keys.TAG_SCHEMA,
        keys.TAG_UNIT,
        keys.TAG_REGION,
        keys.TAG_SCOPE,
        keys.TAG_PUE,
        keys.TAG_INTENSITY_G_PER_KWH,
        keys.TAG_NUM_UNITS,
        keys.TAG_NUM_WINDOWS,
        keys.TAG_NUM_DISTINCT_READINGS,
        keys.TAG_NUM_NODES,
        keys.method_tag("cpu"),
        keys.method_tag("gpu"),
        keys.node_tag(keys.TAG_NODE_STATE, 1),
        keys.TAG_TOTAL,
        keys.TAG_ENERGY_KWH_PER_UNIT,
        MLFLOW_RUN_NAME,
        "Carbon.lab",
        "lab",
    ]
)
totals = st.sampled_from(
    [
        "ended 1700000000000 part_start_ms=1699999990000.0 energy_kwh=0.5 duration_s=9.0 gpu/0=0.5",
        "ended 1700000000000 energy_kwh=0.5 coverage_fraction=1.0 gpu=0.5",
        "ended 1700000000000 energy_kwh=0.5 coverage_fraction=1.5",
        "ended 1700000000000 duration_s=9.0",
        "ended 1700000000000  energy_kwh=0.5 gpu/x=0.5",
        "ended 1700000000000 energy_kwh=nan",
        "ended 17000000000000 energy_kwh=0.5",
        "ended 1700000000000",
        "ended",
        "running 1700000000000 energy_kwh=0.5",
    ]
)
energies = st.sampled_from(
    ["sample=0.25 sample_std=0.5", "epoch=0.25", "sample=-1.0", "sample", ""]
)
tags_of_version_2 = st.fixed_dictionaries(
    {keys.TAG_SCHEMA: st.just("2")},
    optional={keys.TAG_TOTAL: totals, keys.TAG_ENERGY_KWH_PER_UNIT: energies},
)
sound_tags = {keys.TAG_SCHEMA: "1", keys.TAG_UNIT: "sample"}
tags_of_runs = st.builds(
    lambda changes, source: sound_tags | changes | source,
    st.dictionaries(tag_keys, words | texts, max_size=5),
    st.sampled_from([{}, {MLFLOW_SOURCE_TYPE: "PROJECT"}]) | tags_of_version_2,
)
metrics_of_runs = st.builds(
    lambda changes: {keys.ENERGY_KWH: 0.5, keys.PUE: 1.5, PER_SAMPLE: 0.25} | changes,
    st.dictionaries(metric_keys, numbers, max_size=5),
)
stored_runs = st.fixed_dictionaries(
    {
        "name": st.none() | texts,
        "status": st.sampled_from(["FINISHED", "FINISHED", "FINISHED", "FAILED", "RUNNING"]),
        "stage": st.sampled_from(["active", "active", "active", "deleted"]),
        "start_ms": st.integers(0, 3),  # MLflow cannot read a run without a start
        "parent": st.none() | st.integers(0, 9),
        "metrics": metrics_of_runs,
        "params": st.dictionaries(st.sampled_from(["steps", "Steps", "data"]), words | texts),
        "tags": tags_of_runs,
    }
)


class Database:
    """A store's tables, into which runs are put as they are, possible or not."""

    def __init__(self, uri):
        self.client = MlflowClient(tracking_uri=uri)
        self.client.search_experiments()
        self._engine = sqlalchemy.create_engine(uri)
        self._tables = sqlalchemy.MetaData()
        self._tables.reflect(self._engine, only=["runs", "latest_metrics", "params", "tags"])
        self._num_experiments = 0

    def put(self, runs):
        """Returns the name and the id of a new experiment with these runs."""
        self._num_experiments += 1
        name = f"exp {self._num_experiments}"
        id_ = self.client.create_experiment(name)
        ids = [hashlib.md5(f"{name} {number}".encode()).hexdigest() for number in range(len(runs))]
        with self._engine.begin() as connection:
            for run_id, run in zip(ids, runs, strict=True):
                for table, rows in rows_of(run_id, int(id_), run, ids).items():
                    if rows:
                        connection.execute(self._tables.tables[table].insert(), rows)
        return name, id_

    def close(self):
        self._engine.dispose()


def rows_of(run_id, experiment, run, ids):
    """Returns the rows of a run, by table."""
    tags = dict(run["tags"])
    if run["parent"] is not None and ids:
        tags[MLFLOW_PARENT_RUN_ID] = ids[run["parent"] % len(ids)]
    head = {
        "run_uuid": run_id,
        "name": run["name"],
        "user_id": "lab",
        "status": run["status"],
        "start_time": run["start_ms"],
        "lifecycle_stage": run["stage"],
        "experiment_id": experiment,
    }
    metrics = [
        {
            "run_uuid": run_id,
            "key": key,
            "value": 0.0 if math.isnan(value) else value,
            "timestamp": 1,
            "step": 0,
            "is_nan": math.isnan(value),
        }
        for key, value in run["metrics"].items()
    ]
    texts_of = {
        table: [{"run_uuid": run_id, "key": key, "value": value} for key, value in named.items()]
        for table, named in (("params", run["params"]), ("tags", tags))
    }
    return {"runs": [head], "latest_metrics": metrics, **texts_of}


@pytest.fixture(scope="module")
def sqlite_database(tmp_path_factory):
    opened = Database(f"sqlite:///{tmp_path_factory.mktemp('reflected')}/mlflow.db")
    yield opened
    opened.close()


def frame_or_error(client, name, **options):
    try:
        return read_runs(client, experiment_names=[name], **options)
    except NoRunsError as error:
        return str(error)


def of_contract(run):
    """Returns what both ways must give of a run."""
    wanted_tags = (MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_TYPE, "lab")
    return run._replace(
        metrics={
            key: repr(value) for key, value in run.metrics.items() if key.startswith("carbon/")
        },
        params={key: value for key, value in run.params.items() if key == "steps"},
        tags={
            key: value
            for key, value in run.tags.items()
            if key.startswith("carbon.") or key in wanted_tags
        },
    )


def assert_both_ways_agree(database, runs):
    name, id_ = database.put(runs)
    uri = database.client.tracking_uri
    read = list(reflected_runs(uri, Scope([id_]), Wanted(["steps"], ["lab"])))
    searched = list(RunSource(database.client, Scope([id_])).searched())
    assert list(map(of_contract, read)) == list(map(of_contract, searched))
    for asked in ({}, {"names": ["steps"]}, {"names": ["lab", "data"]}, {"group_by": ["lab"]}):
        frames = [
            frame_or_error(database.client, name, **asked, is_direct=is_direct)
            for is_direct in (True, False)
        ]
        if isinstance(frames[0], str):
            assert frames[0] == frames[1]
        else:
            pd.testing.assert_frame_equal(*frames, check_exact=True)


@pytest.mark.slow
@given(st.lists(stored_runs, max_size=6))
@settings(max_examples=20, phases=FINDING)
def test_tables_and_search_give_equal_rows(sqlite_database, runs):
    assert_both_ways_agree(sqlite_database, runs)


@pytest.mark.postgres
def test_tables_of_postgresql_and_search_give_equal_rows(monkeypatch, tmp_path):
    pytest.importorskip("psycopg2")
    monkeypatch.chdir(tmp_path)
    with postgres_server() as uri:
        database = Database(uri)

        @given(st.lists(stored_runs, max_size=6))
        @settings(max_examples=10, phases=FINDING)
        def agree(runs):
            assert_both_ways_agree(database, runs)

        agree()
        database.close()


@pytest.mark.slow
@given(metrics_of_runs, tags_of_runs)
@settings(max_examples=400)
def test_summary_is_that_of_the_record(metrics, tags):
    reader = SummaryReader()
    expected = summary_or_reason(whole, metrics, tags)
    figure_tags = {key: tags[key] for key in FIGURE_TAGS if key in tags}
    shared = {key: value for key, value in tags.items() if key not in FIGURE_TAGS}
    assert summary_or_reason(reader.read, metrics, shared, figure_tags) == expected
    assert summary_or_reason(reader.read, metrics, shared, figure_tags) == expected


@pytest.mark.parametrize("state", ["ended", "running"])
def test_summary_of_version_2_is_that_of_the_record(state):
    figure_tags = {
        keys.TAG_TOTAL: f"{state} 1700000000000 energy_kwh=0.5 duration_s=9.0 coverage_fraction=1.0"
        " gpu=0.5 gpu/0=0.25 gpu/1=0.25",
        keys.TAG_ENERGY_KWH_PER_UNIT: "sample=0.25 sample_std=0.01 epoch=0.5",
    }
    tags = {keys.TAG_SCHEMA: "2", keys.TAG_UNIT: "sample", keys.TAG_PUE: "1.5"}
    metrics = {keys.ENERGY_KWH: 0.5, keys.CO2E_G: 3.0}
    summary = SummaryReader().read("id", metrics, tags, figure_tags)
    assert summary == whole("id", metrics, {**tags, **figure_tags})
    expected = (0.5, 9.0, 3.0, 1.0) if state == "ended" else (None,) * 4
    assert summary[:4] == expected
    assert summary.energy_kwh_per_unit_std_within == 0.01


def whole(*run):
    return RunSummary.of(RunRecord.parse(*run))


def summary_or_reason(read, *figures):
    try:
        return read("id", *figures)
    except BadRecordError as error:
        return error.reason


def test_nul_in_a_text_is_kept(store):
    client = MlflowClient(tracking_uri=store)
    run_id = write_run(client, "exp", windows=WINDOWS, tags={"lab": "A"})
    with closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as opened:
        opened.execute("UPDATE tags SET value = 'A' || char(0) || '\"' WHERE key = 'lab'")
        opened.commit()
    (run,) = reflected_runs(store, Scope([experiment_id(client, "exp")]), Wanted())
    assert (run.run_id, run.tags["lab"]) == (run_id, 'A\0"')


def test_only_the_names_asked_for_become_columns(store):
    client = MlflowClient(tracking_uri=store)
    write_run(client, "exp", windows=WINDOWS, params={"steps": "50", "seed": "1"})
    frame = read_runs(client, experiment_names=["exp"], names=["steps", keys.TAG_UNIT])
    named = [column for column in frame if column.startswith(("params.", "tags."))]
    assert named == ["params.steps", "tags.carbon.unit"]


def test_comparison_reads_all_tags_of_the_user_and_few_that_programs_write(store):
    client = MlflowClient(tracking_uri=store)
    tags = {"lab": "a", "mlflow.user": "b", keys.TAG_LAUNCH: "c", keys.TAG_HARDWARE: "d"}
    write_run(client, "exp", windows=WINDOWS, tags=tags, params={"steps": "50"})
    frame = read_runs(client, experiment_names=["exp"], group_by=["steps", keys.TAG_UNIT])
    named = [column for column in frame if column.startswith(("params.", "tags."))]
    assert named == ["params.steps", "tags.carbon.hardware", "tags.carbon.unit", "tags.lab"]


def test_name_that_no_run_has_reads_all_names_for_the_error(store):
    client = MlflowClient(tracking_uri=store)
    write_run(client, "exp", windows=WINDOWS, params={"steps": "50", "seed": "1"})
    assert "params.steps" in read_runs(client, experiment_names=["exp"], names=["step"])


def test_reading_tables_changes_no_byte(store):
    client = MlflowClient(tracking_uri=store)
    write_run(client, "exp", windows=WINDOWS)
    path = Path(store.removeprefix("sqlite:///"))
    before = path.read_bytes()
    assert len(list(reflected_runs(store, Scope([experiment_id(client, "exp")]), Wanted()))) == 1
    assert path.read_bytes() == before
    assert list(path.parent.glob("mlflow.db-*")) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("UPDATE alembic_version SET version_num = 'later'", "the schema is later, not"),
        ("DROP TABLE alembic_version", "alembic_version"),
        ("ALTER TABLE latest_metrics RENAME COLUMN is_nan TO isnt", "latest_metrics has no is_nan"),
    ],
)
def test_other_tables_are_not_read(store, change, fault):
    client = MlflowClient(tracking_uri=store)
    write_run(client, "exp", windows=WINDOWS)
    with closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as opened:
        opened.execute(change)
        opened.commit()
    with pytest.raises(UnknownTablesError, match=fault):
        list(reflected_runs(store, Scope([experiment_id(client, "exp")]), Wanted()))
    if "RENAME" not in change:  # which MLflow itself cannot read
        assert len(read_runs(client, experiment_names=["exp"])) == 1


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///mlflow.db", True),
        ("sqlite://", False),
        ("postgresql+psycopg2://me@host/db", True),
        ("mysql://me@host/db", False),
        ("http://host", False),
        ("databricks", False),
    ],
)
def test_only_sqlite_files_and_postgresql_are_read_directly(uri, expected):
    assert reads_database(uri) is expected


@pytest.mark.slow
def test_progress_is_told_while_runs_are_read(store):
    client = MlflowClient(tracking_uri=store)
    copy_run(client, write_run(client, "exp", windows=WINDOWS), num_copies=1100)
    told = []
    read_runs(client, experiment_names=["exp"], on_progress=lambda *read: told.append(read))
    assert told == [(1000, 1101), (1101, 1101)]


@pytest.mark.slow
def test_server_gives_the_same_rows_page_by_page(store, tmp_path):
    client = MlflowClient(tracking_uri=store)
    copy_run(client, write_run(client, "exp", windows=WINDOWS), num_copies=2100)
    expected = read_runs(client, experiment_names=["exp"])
    with mlflow_server(store, tmp_path) as uri:
        told = []
        frame = read_runs(
            MlflowClient(tracking_uri=uri),
            experiment_names=["exp"],
            on_progress=lambda *read: told.append(read),
        )
    pd.testing.assert_frame_equal(frame, expected, check_exact=True)
    assert told[-1] == (2101, None)
