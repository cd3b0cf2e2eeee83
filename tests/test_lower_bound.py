"""A killed run: the sum of its windows is a lower bound, tagged so; a later part adds to it."""

import json
import os
import signal
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace

import mlflow
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from mlflow_carbon.cli import cli
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.recording.earlier import read_earlier_part
from mlflow_carbon.recording.recovery import write_lower_bound
from mlflow_carbon.store.run_windows import read_metered_run
from mlflow_carbon.testing.meter import FakeMeter, reading
from mlflow_carbon.tracking.process_metering import ProcessMetering
from mlflow_carbon.tracking.tracking_options import TrackingOptions
from tests.fakes.recorded import recorded, windows_of

SWEDEN = TrackingOptions(unit="epoch", region="Sweden", intensity_set="paper_table1", pue=2.0)
START_S = 1_700_000_000.0


def at(start_s, measured):
    return replace(measured, start_unix_s=START_S + start_s)


def killed_part(run_id, *windows, meter_class=FakeMeter):
    """Meters windows of one epoch each; all but the totals arrives."""
    tracking = ProcessMetering().track(run_id, SWEDEN, meter=meter_class(windows))
    for _ in windows:
        tracking.close(tracking.open(), 1)
    assert tracking.flush()


def whole_part(run_id, total, *windows):
    """Meters windows and the whole, to its end."""
    tracking = ProcessMetering().track(run_id, SWEDEN, meter=FakeMeter([*windows, total]))
    for _ in windows:
        tracking.close(tracking.open(), 1)
    tracking.finish()


@pytest.fixture
def run_id(store):
    return MlflowClient().create_run("0").info.run_id


def data_of(run_id):
    return MlflowClient().get_run(run_id).data


TWO = [at(0, reading(gpu_joules=[100, 260], duration_s=10)), at(10, reading(gpu_joules=[720]))]


def test_killed_run_gets_the_sum_of_its_windows(run_id):
    killed_part(run_id, *TWO)
    write_lower_bound(MlflowClient(), run_id)
    data = data_of(run_id)
    # 360 + 720 = 1080 J = 0.0003 kWh; x PUE 2 x 7 g/kWh
    assert recorded(data)["energy_kwh"] == pytest.approx(0.0003)
    assert recorded(data)["gpu"] == pytest.approx(0.0003)
    assert recorded(data)["co2e_g"] == pytest.approx(0.0042)
    assert recorded(data)["duration_s"] == pytest.approx(11)
    assert recorded(data)["energy_kwh_per_epoch"] == pytest.approx(0.00015)
    assert recorded(data)["coverage_fraction"] == 0.5
    assert recorded(data)["gpu/0"] == pytest.approx(820 / 3.6e6)
    assert recorded(data)["gpu/1"] == pytest.approx(260 / 3.6e6)
    assert data.tags["carbon.partial"] == "true"
    assert data.tags["carbon.num_windows"] == "2"


def test_lower_bound_is_written_once_and_can_be_written_again(run_id):
    killed_part(run_id, *TWO)
    histories = []
    for _ in range(2):
        write_lower_bound(MlflowClient(), run_id)
        history = MlflowClient().get_metric_history(run_id, keys.ENERGY_KWH)
        histories.append([(point.step, point.timestamp, point.value) for point in history])
    assert histories[0] == histories[1]


def test_windows_that_overlap_count_once_in_the_bound(run_id):
    class Honest(FakeMeter):
        """A meter that says what the run has spent in all, as a real one does."""

        def reading_so_far(self, window):
            outer = at(0, reading(gpu_joules=[1500], duration_s=11))
            return super().reading_so_far(window) if self.scripted else outer

    # two threads: the second window spans both of the first's
    outer = at(0, reading(gpu_joules=[1500], duration_s=11))
    killed_part(run_id, *TWO, outer, meter_class=Honest)
    write_lower_bound(MlflowClient(), run_id)
    assert recorded(run_id)["energy_kwh"] == pytest.approx(1500 / 3.6e6)


@pytest.mark.slow
def test_run_that_ended_is_left_as_it_is(run_id):
    whole_part(run_id, at(0, reading(gpu_joules=[1200], duration_s=12)), *TWO)
    before = data_of(run_id)
    write_lower_bound(MlflowClient(), run_id)
    after = data_of(run_id)
    assert (after.metrics, after.tags) == (before.metrics, before.tags)
    assert "carbon.partial" not in after.tags


def test_killed_second_part_is_added_to_the_total_of_the_first(run_id):
    whole_part(run_id, at(0, reading(gpu_joules=[1200], duration_s=12)), *TWO)
    killed_part(run_id, at(100, reading(gpu_joules=[300], duration_s=5)))
    write_lower_bound(MlflowClient(), run_id)
    data = data_of(run_id)
    assert recorded(data)["energy_kwh"] == pytest.approx(1500 / 3.6e6)
    assert recorded(data)["duration_s"] == pytest.approx(17)
    assert data.tags["carbon.partial"] == "true"


def test_no_step_of_the_curves_has_two_values_whatever_became_of_the_parts(run_id):
    whole_part(run_id, at(0, reading(gpu_joules=[1200], duration_s=12)), *TWO)
    killed_part(run_id, at(100, reading(gpu_joules=[300], duration_s=5)))
    write_lower_bound(MlflowClient(), run_id)
    whole_part(
        run_id,
        at(200, reading(gpu_joules=[600], duration_s=20)),
        at(200, reading(gpu_joules=[500], duration_s=10)),
    )
    values = defaultdict(set)
    for point in MlflowClient().get_metric_history(run_id, keys.ENERGY_KWH):
        values[point.step].add(round(point.value * 3.6e6, 6))
    # windows at 1 and 2, the end at 3; the killed window at 4, of which the bound is; 5, the end
    assert values == {0: {0}, 1: {360}, 2: {1080}, 3: {1200}, 4: {1500}, 5: {2000}, 6: {2100}}
    read = windows_of(run_id)
    joules = {step: round(window.energy_kwh * 3.6e6, 6) for step, window in read.items()}
    assert joules == {1: 360, 2: 720, 4: 300, 5: 500}
    assert data_of(run_id).tags["carbon.num_windows"] == "4"


def test_part_that_follows_makes_the_total_whole_again(run_id):
    killed_part(run_id, *TWO)
    write_lower_bound(MlflowClient(), run_id)
    whole_part(run_id, at(100, reading(gpu_joules=[720], duration_s=10)))
    data = data_of(run_id)
    assert recorded(data)["energy_kwh"] == pytest.approx(1800 / 3.6e6)
    assert data.tags["carbon.partial"] == "false"
    assert not RunRecord.read(MlflowClient().get_run(run_id)).is_partial


def test_reader_sums_the_windows_of_a_run_that_nobody_recovered(run_id):
    killed_part(run_id, *TWO)
    client = MlflowClient()
    client.set_terminated(run_id, "KILLED")
    read = read_metered_run(client, client.get_run(run_id))
    assert read.is_partial
    assert read.energy_kwh == pytest.approx(0.0003)
    assert (read.num_units, read.unit, read.pue) == (2, "epoch", 2.0)
    assert read.intensity.g_per_kwh == 7


def test_reader_takes_a_recovered_run_though_its_status_is_running(run_id):
    killed_part(run_id, *TWO)
    client = MlflowClient()
    write_lower_bound(client, run_id)
    assert read_metered_run(client, client.get_run(run_id)).is_partial


# Clocks that go back


@pytest.mark.parametrize("jump_s", [0, -3600])
def test_run_resumed_under_an_earlier_clock_keeps_its_parts(run_id, jump_s):
    joules = [600, 400, 200]
    for number, one in enumerate(joules):
        start_s = number * (100 + jump_s)
        whole_part(run_id, at(start_s, reading(cpu_joules=one, duration_s=20)))
    assert recorded(run_id)["energy_kwh"] == pytest.approx(1200 / 3.6e6)
    assert recorded(run_id)["duration_s"] == 60
    history = MlflowClient().get_metric_history(run_id, keys.ENERGY_KWH)
    stamps = [point.timestamp for point in history]
    assert stamps == sorted(set(stamps))


def test_part_that_was_killed_under_an_earlier_clock_counts(run_id):
    whole_part(run_id, at(0, reading(cpu_joules=600, duration_s=20)))
    killed_part(run_id, at(-3600, reading(cpu_joules=300, duration_s=10)))
    client = MlflowClient()
    total = read_earlier_part(client, client.get_run(run_id)).total
    assert total.energy_kwh == pytest.approx(900 / 3.6e6)
    whole_part(run_id, at(-7200, reading(cpu_joules=100, duration_s=10)))
    assert recorded(run_id)["energy_kwh"] == pytest.approx(1000 / 3.6e6)


def test_total_is_no_older_than_the_windows_of_a_clock_that_was_put_forward(run_id):
    window = at(3600, reading(cpu_joules=300, duration_s=10))  # the total begins before the step
    whole_part(run_id, at(0, reading(cpu_joules=600, duration_s=30)), window)
    client = MlflowClient()
    total = read_earlier_part(client, client.get_run(run_id)).total
    assert total.energy_kwh == pytest.approx(600 / 3.6e6)  # not the window a second time


# From a real process


LOOP = """
import os, sys, time
import mlflow, mlflow_carbon
from mlflow_carbon import MeterSettings
simulated = MeterSettings(components="gpu", sim_gpu_w=300.0, sim_gpu_util_fraction=1.0)
with mlflow.start_run() as run, mlflow_carbon.track(
    settings=simulated, region="SE", unit="sample"
) as tracker:
    for _ in range(5):
        with tracker.window():
            time.sleep(0.1)
    print(run.info.run_id, flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_process_that_was_killed_is_recovered_and_read(store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_CARBON_JOURNAL_DIR", str(tmp_path / "journals"))
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store}
    arguments = [sys.executable, "-c", LOOP]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process:
        run_id = process.stdout.readline().strip()
        process.send_signal(signal.SIGKILL)
    invoke = CliRunner().invoke
    assert f"run {run_id}: " in invoke(cli, ["recover"], catch_exceptions=False).stdout
    assert list((tmp_path / "journals").iterdir()) == []
    client = MlflowClient()
    metrics = recorded(client.get_run(run_id).data)
    windows = windows_of(run_id)
    assert [window.num_units for window in windows.values()] == [1] * 5
    in_windows_kwh = sum(window.energy_kwh for window in windows.values())
    assert in_windows_kwh <= metrics["energy_kwh"] <= 1.5 * in_windows_kwh  # with what lies between
    assert metrics["pue"] == 1
    predicted = invoke(cli, ["predict", run_id, "--units", "100"], catch_exceptions=False)
    assert predicted.exit_code == 0, predicted.output
    with mlflow.start_run(run_id=run_id):
        pass


@pytest.mark.slow
def test_compare_takes_a_killed_run_only_when_asked(run_id):
    killed_part(run_id, *TWO)  # (100 + 260) + 720 = 1080 J over 2 epochs, PUE 2, 7 g/kWh
    whole = MlflowClient().create_run("0").info.run_id
    whole_part(whole, reading(gpu_joules=[3600]), reading(gpu_joules=[3600]))
    MlflowClient().set_terminated(whole)

    def energies_kwh(*options):
        result = CliRunner().invoke(cli, ["compare", "--format", "json", *options])
        assert result.exit_code == 0, result.output
        (row,) = json.loads(result.stdout)
        return row["num_runs"], row["energy_kwh_mean"], result.stderr

    assert energies_kwh()[:2] == (1, pytest.approx(1e-3))
    num_runs, mean_kwh, said = energies_kwh("--include", "partial")
    assert (num_runs, mean_kwh) == (2, pytest.approx((1e-3 + 3e-4) / 2))
    assert "1 of 2 runs in the comparison are partial: their energy is a lower bound" in said
