"""Savings computed from runs: known ratios, intervals by another implementation, equal quality."""

import math
from statistics import mean, stdev

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from scipy import stats

from mlflow_carbon.accounting.emissions import MeanStd
from mlflow_carbon.grid.hourly import read_intensity_file
from mlflow_carbon.reporting.savings import place_changes, setting_changes, welch_saving
from mlflow_carbon.store.run_metrics import read_metric
from mlflow_carbon.store.runs import read_runs
from tests.fakes.metered_runs import write_run


@pytest.fixture
def client(store):
    return MlflowClient(tracking_uri=store)


def write(client, kwh, *, quality=None, **params):
    run_id = write_run(client, "e", windows=[(kwh, 1.0), (kwh, 1.0)], params=params)
    if quality is not None:
        client.log_batch(run_id, metrics=[Metric("kid", quality, 0, 0)])
    return run_id


def read(client):
    return read_runs(client, experiment_names=["e"])


def test_a_setting_is_compared_only_where_all_others_are_equal(client):
    write(client, 8.0, steps="1000", dims="2", seed="0")
    cheap = write(client, 2.0, steps="50", dims="2", seed="1")
    write(client, 100.0, steps="50", dims="3", seed="2")
    by_setting = {change.setting: change for change in setting_changes(read(client))}
    assert by_setting.keys() == {"steps", "dims"}
    assert by_setting["steps"].saving_fraction == pytest.approx(0.75)  # 1 - 2 / 8, in 2D only
    assert cheap in by_setting["steps"].run_ids
    assert len(by_setting["steps"].run_ids) == 2
    assert (by_setting["dims"].before, by_setting["dims"].after) == ("3", "2")
    assert by_setting["steps"].low is None  # one run a side tells no error


@pytest.mark.parametrize("name", ["region", "month", "pue", "intensity_set"])
def test_a_price_given_as_a_parameter_is_no_setting(client, name):
    for kwh, value in ((5.0, "1"), (4.0, "auto")):
        write(client, kwh, **{name: value})  # it moves no energy
    assert setting_changes(read(client)) == []


def of_logs(values):
    """Returns the number, mean and sample std of the logarithms, by the standard library."""
    logs = [math.log(value) for value in values]
    return MeanStd(mean(logs), stdev(logs) if len(logs) > 1 else None, len(logs))


def test_interval_is_that_of_welch_on_logarithms(client):
    dear, cheap = [8.0, 8.4, 7.7], [2.0, 2.2, 2.1, 1.9]
    low, high = welch_saving(of_logs(dear), of_logs(cheap))
    logs = [[math.log(value) for value in values] for values in (cheap, dear)]
    interval = stats.ttest_ind(*logs, equal_var=False).confidence_interval(0.95)
    assert (low, high) == pytest.approx((1 - math.exp(interval.high), 1 - math.exp(interval.low)))
    assert welch_saving(of_logs([8.0]), of_logs(cheap)) == (None, None)
    same = [of_logs([value, value]) for value in (8.0, 2.0)]
    assert welch_saving(*same) == (None, None)


def test_single_runs_are_told_apart_by_their_windows_alone(client):
    def write_windows(joules, **params):
        windows = [(joule, 1.0) for joule in joules]
        write_run(client, "e", windows=windows, params=params)

    write_windows([8.0, 8.4, 7.6, 8.0], steps="100")
    write_windows([2.0, 2.2, 1.8, 2.0], steps="20")
    (change,) = setting_changes(read(client))
    # to first order a logarithm's std is std / mean: of 4 windows 0.3266 / 8 and 0.1633 / 2
    variances = [(0.32660 / 8) ** 2 / 4, (0.16330 / 2) ** 2 / 4]
    degrees = sum(variances) ** 2 / sum(it**2 / 3 for it in variances)
    margin = stats.t.ppf(0.975, degrees) * math.sqrt(sum(variances))
    assert change.low == pytest.approx(1 - math.exp(math.log(2 / 8) + margin), rel=1e-4)
    assert change.is_shown
    assert "interval is of its windows" in change.basis


def test_what_chance_could_have_made_is_no_saving_shown(client):
    write(client, 8.0, lr="1")
    write(client, 4.0, lr="0")  # a run a side, and windows that do not scatter
    for kwh in (8.0, 3.0, 7.0, 3.5):
        write(client, kwh, size="a" if kwh > 5 else "b", lr="2")
    assert {it.setting: it.is_shown for it in setting_changes(read(client))} == {
        "lr": False, "size": True,
    }  # fmt: skip


def test_at_equal_quality_a_cheaper_but_worse_setting_is_not_offered(client):
    # 95 % interval of the mean of 2.0 and 2.2: 2.1 + 12.7 x 0.1 = 3.37
    for kwh, steps, quality in (
        (8.0, "1000", 2.0), (8.2, "1000", 2.2), (2.0, "50", 3.0), (1.0, "10", 9.0),
    ):  # fmt: skip
        write(client, kwh, steps=steps, quality=quality)
    runs = read(client)
    assert setting_changes(runs)[0].after == "10"
    quality = read_metric(client, experiment_names=["e"], metric="kid")
    (change,) = setting_changes(runs, quality=quality)
    assert change.after == "50"
    assert "no worse" in change.basis


def test_region_is_the_ratio_of_intensities_and_the_hour_that_of_the_file(client, tmp_path):
    write(client, 1.0)
    path = tmp_path / "hours.csv"
    # the run lasts two windows of a minute, so it fits the second hour: 1 - 100 / 200
    path.write_text(
        "timestamp,g_per_kwh\n2024-01-01T00:00,300\n2024-01-01T01:00,100\n2024-01-01T02:00,200\n"
    )
    changes, unknown = place_changes(read(client), read_intensity_file(path))
    by_setting = {change.setting: change for change in changes}
    # paper_table1: EU27 251 and SE 7 g/kWh
    assert by_setting["region"].saving_fraction == pytest.approx(1 - 7 / 251)
    assert (by_setting["region"].before, by_setting["region"].after) == (
        "EU27 251 g/kWh (2022, paper_table1)",
        "SE 7 g/kWh (2022, paper_table1)",
    )
    assert by_setting["hour"].saving_fraction == pytest.approx(0.5)
    assert [reason.partition(":")[0] for reason in unknown] == ["month"]
