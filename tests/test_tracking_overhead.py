"""The benchmark of tracking: a sweep is tracked where it says so, and its page says no more."""

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.utils.autologging_utils import AUTOLOGGING_INTEGRATIONS

import mlflow_carbon
from benchmarks.tracked_work import (
    NUM_BATCH_METRICS,
    NUM_BATCH_TAGS,
    measure_memory,
    run_sweep,
)
from benchmarks.tracking_overhead_page import (
    Ratios,
    SweepCosts,
    memory_lines,
    ratio_lines,
    sweep_lines,
    thread_line,
)
from mlflow_carbon.tracking.patches import INTEGRATION


@pytest.fixture
def switched_off_after(store):
    """Autologging is off when the test is over."""
    yield
    mlflow_carbon.autolog(disable=True)
    AUTOLOGGING_INTEGRATIONS[INTEGRATION] = {}


def scopes():
    """Returns how each run of the store is tagged, those that are not metered by ``None``."""
    runs = MlflowClient().search_runs(["0"], order_by=["start_time ASC"])
    return [run.data.tags.get("carbon.scope") for run in runs]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tool", "expected"),
    [("mlflow_carbon", ["run", "parent", "run", "run"]), ("alone", [None] * 4)],
)
def test_sweep_meters_parent_and_children_under_our_tool_only(switched_off_after, tool, expected):
    assert run_sweep(tool, 2)["sweep_s"] > 0
    assert scopes() == expected
    assert mlflow.active_run() is None


@pytest.mark.slow
def test_batch_beside_ours_is_as_large_as_ours(switched_off_after):
    # a trial may end before the CPU's counter moves; one of 30 does not
    run_sweep("mlflow_carbon", 30)
    trials = [run.data for run in MlflowClient().search_runs(["0"])]
    by_num_metrics = {
        sum(key.startswith("carbon/") for key in data.metrics): data
        for data in trials
        if "mlflow.parentRunId" in data.tags
    }
    assert max(by_num_metrics) == NUM_BATCH_METRICS
    tags = by_num_metrics[NUM_BATCH_METRICS].tags
    num_tags = sum(key.startswith("carbon.") for key in tags)
    assert abs(num_tags - NUM_BATCH_TAGS) <= 4  # some machines have other tags


def test_sweep_is_compared_round_by_round():
    # added: 25 - 10, 31 - 20 and 52 - 30 ms = 15, 11, 22; the middle one is 15, and not 31 - 20
    costs = SweepCosts(3, {"alone": [0.010, 0.020, 0.030], "ours": [0.025, 0.031, 0.052]})
    assert list(sweep_lines(costs))[2:] == [
        "| alone | 20.00 (15.00 to 25.00) |  |",
        "| ours | 31.00 (28.00 to 41.50) | 15.00 (13.00 to 18.50) |",
    ]


def test_ratios_have_quartiles_beside_their_median():
    ratios = [Ratios("numpy", "ours", [1.0, 1.1, 1.3], [1.0, 1.0, 1.0], [2.0, 9.0, 3.0])]
    assert list(ratio_lines(ratios))[2] == (
        "| numpy | ours | 1.1000 (1.0500 to 1.2000) | 1.0000 (1.0000 to 1.0000) | 3.00 |"
    )


def test_long_loops_are_one_row_beside_its_bar():
    assert "| 1.50 ms | 2 ms |" in thread_line([9.0, 1.5, 1.25], 60.0)


def test_growth_stands_beside_that_of_mlflow_alone():
    # 3 MiB = 3145728 bytes
    rows = list(memory_lines({"mlflow_carbon": 3145728.0, "MLflow": 1048576.0}, 10_000))
    assert [row.split("|")[2:4] for row in rows] == [[" +3.0 MiB ", " flat "], [" +1.0 MiB ", "  "]]


@pytest.mark.slow
def test_mlflow_alone_writes_as_many_points_as_windows_have(store):
    measure_memory("MLflow", 200)
    (run,) = MlflowClient().search_runs(["0"])
    assert len(MlflowClient().get_metric_history(run.info.run_id, "a")) == 200
