"""The start of least CO2e: chosen, waited for by a clock that the test moves, kept, recorded."""

import configparser
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.exceptions import ExecutionException
from mlflow.projects import utils

from mlflow_carbon.accounting.start_plan import plan_start
from mlflow_carbon.carbon_backend import CarbonBackend
from mlflow_carbon.cli import cli
from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.grid.forecasts import fetch_forecast
from mlflow_carbon.grid.hourly import mean_g_per_kwh, read_intensity_file
from mlflow_carbon.grid.wait_settings import WaitSettings
from mlflow_carbon.tracking.kept_starts import KeptStart
from mlflow_carbon.tracking.waiting import note_saving, wait_for_start
from mlflow_carbon.units import seconds_from_text, unix_s_from_iso8601
from tests.conftest import ROOT
from tests.fakes.day_clock import MovedClock, interrupted_at
from tests.fakes.intensity_server import intensity_server
from tests.fakes.metered_runs import write_run

NOW = "2026-11-27T12:00Z"
# 400 g/kWh but for the hours from 15:00 (100) and from 20:00 (50)
INTENSITIES = {15: 100.0, 20: 50.0}


@pytest.fixture
def hourly(tmp_path):
    """A file of the hours from noon to midnight."""
    path = tmp_path / "hourly.csv"
    rows = [f"2026-11-27T{hour}:00Z,{INTENSITIES.get(hour, 400.0)}" for hour in range(12, 24)]
    path.write_text("\n".join(["timestamp,g_per_kwh", *rows]) + "\n")
    return path


@pytest.fixture
def told():
    """What was said."""
    return []


def wait(told, tmp_path, settings, *, clock=None, last_s=None):
    """Waits as a command would; returns the plan."""
    return wait_for_start(
        settings,
        command="work",
        last_duration_s=lambda: last_s,
        say=told.append,
        clock=clock or MovedClock(NOW),
        environment={},
        folder=tmp_path / "starts",
    )


def test_lengths_of_time_are_read_and_others_refused():
    assert [seconds_from_text(it) for it in ("45s", "90 min", "12h", "1.5d")] == [
        45.0,
        5400.0,
        43200.0,
        129600.0,
    ]
    for wrong in ("12", "0h", "-1h", "1h30", "soon"):
        with pytest.raises(ValueError, match="no length of time"):
            seconds_from_text(wrong)


def test_it_waits_for_the_cleanest_hour_before_the_deadline(hourly, told, tmp_path):
    clock = MovedClock(NOW)
    settings = WaitSettings(deadline="6h", duration="1h", intensity_file=str(hourly))
    plan = wait(told, tmp_path, settings, clock=clock)
    # until 18:00: the hour from 15:00, 3 h of 12:00's 400 g/kWh later, and 100 of them
    assert (clock.now_s, plan.start_s) == (unix_s_from_iso8601("2026-11-27T15:00Z"),) * 2
    assert plan.saving_fraction == pytest.approx(0.75)
    assert sum(clock.naps_s) == 3 * 3600
    assert told == [
        "waits until 2026-11-27T15:00Z (3.0 h from now): 100 g/kWh instead of 400 at once saves "
        "75% of the CO2e, by own file (hourly.csv), for work of 60 min. Ctrl-C ends the wait."
    ]


def test_a_later_deadline_finds_a_cleaner_hour(hourly, told, tmp_path):
    settings = WaitSettings(deadline="2026-11-27T21:00Z", duration="1h", intensity_file=str(hourly))
    assert wait(told, tmp_path, settings).g_per_kwh == pytest.approx(50.0)


def test_work_lasts_as_its_last_run_and_else_an_hour_is_assumed(hourly, told, tmp_path):
    settings = WaitSettings(deadline="12h", intensity_file=str(hourly))
    # 9 h cannot leave out much: best are those with both clean hours, (7 x 400 + 150) / 9
    plan = wait(told, tmp_path, settings, last_s=9 * 3600.0)
    assert plan.duration_s == 9 * 3600.0
    assert "assumed" not in "".join(told)
    plan = wait(told, tmp_path, settings)
    assert plan.duration_s == 3600.0
    assert "for work of 60 min, assumed; give duration" in told[-1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"intensity_file": None}, "no hourly intensities are named"),
        ({"duration": "13h"}, "the deadline leaves less than the 4.68e+04 s"),
        ({"duration": "13h", "deadline": "2d"}, "covers 2026-11-27T12:00Z to 2026-11-28T00:00Z"),
    ],
)
def test_where_nothing_is_known_it_starts_at_once(hourly, told, tmp_path, changes, reason):
    values = {"deadline": "12h", "duration": "1h", "intensity_file": str(hourly)} | changes
    clock = MovedClock(NOW)
    plan = wait(told, tmp_path, WaitSettings(**values), clock=clock)
    assert (plan.start_s, clock.naps_s, plan.saving_fraction) == (clock.now_s, [], None)
    assert told[0].startswith("starts at once: ")
    assert reason in told[0]


def test_no_later_start_that_emits_less_is_a_start_at_once(hourly, told, tmp_path):
    clock = MovedClock("2026-11-27T20:00Z")
    settings = WaitSettings(deadline="3h", duration="1h", intensity_file=str(hourly))
    assert wait(told, tmp_path, settings, clock=clock).saving_fraction == 0.0
    assert told == ["starts at once: no later start emits less."]


def test_chosen_start_survives_a_restart(hourly, told, tmp_path):
    settings = WaitSettings(deadline="6h", duration="1h", intensity_file=str(hourly))
    with pytest.raises(KeyboardInterrupt):
        wait(
            told,
            tmp_path,
            settings,
            clock=MovedClock(NOW, ends=interrupted_at("2026-11-27T13:30Z")),
        )
    assert told[-1] == "stopped waiting; nothing was started. The same command goes on waiting."
    # from 14:30 on, 6 h would reach the 50 g/kWh of 20:00 in part: the start of before is kept
    clock = MovedClock("2026-11-27T14:30Z")
    plan = wait(told, tmp_path, settings, clock=clock)
    assert plan.start_s == clock.now_s == unix_s_from_iso8601("2026-11-27T15:00Z")
    assert told[-1].startswith("goes on waiting until 2026-11-27T15:00Z (30 min from now)")
    assert list((tmp_path / "starts").iterdir()) == []  # it began: nothing is left to keep


def test_start_that_passed_unused_leaves_the_deadline(hourly, told, tmp_path):
    settings = WaitSettings(deadline="6h", duration="1h", intensity_file=str(hourly))
    with pytest.raises(KeyboardInterrupt):
        wait(told, tmp_path, settings, clock=MovedClock(NOW, ends=interrupted_at(NOW)))
    plan = wait(told, tmp_path, settings, clock=MovedClock("2026-11-27T16:30Z"))
    assert plan.deadline_s == unix_s_from_iso8601("2026-11-27T18:00Z")
    assert plan.reason == "no later start emits less"
    # after that deadline it is another wait
    plan = wait(told, tmp_path, settings, clock=MovedClock("2026-11-27T18:30Z"))
    assert plan.deadline_s == unix_s_from_iso8601("2026-11-28T00:30Z")


def test_broken_file_of_a_kept_start_is_none(tmp_path):
    kept = KeptStart("digest", tmp_path)
    for text in ("", "{}", "[1]", '{"start_s": 1}'):
        kept.path.write_text(text)
        assert kept.read(now_s=0.0) is None


def test_kept_start_is_the_users_own_file_and_closed_to_others(hourly, told, tmp_path):
    settings = WaitSettings(deadline="6h", duration="1h", intensity_file=str(hourly))
    with pytest.raises(KeyboardInterrupt):
        wait(told, tmp_path, settings, clock=MovedClock(NOW, ends=interrupted_at(NOW)))
    (path,) = (tmp_path / "starts").iterdir()
    assert path.stat().st_mode & 0o077 == 0
    kept = KeptStart(path.stem, path.parent)
    assert kept.read(now_s=0.0) is not None
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    assert kept.read(now_s=0.0) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "The deadline is missing"),
        ({"deadline": "soon"}, "deadline is 'soon'; give how long from now"),
        ({"deadline": 12}, "deadline is 12; give a text"),
        ({"deadline": "1h", "duration": "long"}, "duration is 'long'"),
        ({"deadline": "1h", "regoin": "DE"}, "'regoin' is no setting; use deadline, duration"),
        ({"deadline": "1h", "intensity_basis": "half"}, "intensity_basis is 'half'"),
        ({"deadline": "1h", "intensity_file": "a", "provider": "b"}, "contradict each other"),
    ],
)
def test_wrong_settings_are_one_clear_error(config, message):
    with pytest.raises(InvalidInputError, match=message):
        WaitSettings.from_config(config, {})


def test_passed_deadline_is_refused(told, tmp_path):
    with pytest.raises(InvalidInputError, match="2026-11-27T11:00Z has passed"):
        wait(told, tmp_path, WaitSettings(deadline="2026-11-27T11:00Z"))


def test_environment_names_file_and_provider_where_the_settings_do_not():
    environment = {"MLFLOW_CARBON_PROVIDER": "uk-carbon-intensity", "MLFLOW_CARBON_REGION": "GB"}
    found = WaitSettings.from_config({"deadline": "1h"}, environment)
    assert (found.provider, found.region) == ("uk-carbon-intensity", "GB")
    own = {"deadline": "1h", "intensity_file": "f.csv", "region": "DE"}
    found = WaitSettings.from_config(own, environment)
    assert (found.provider, found.intensity_file, found.region) == (None, "f.csv", "DE")


# Forecasts, as the providers' documents show their answers.
FORECASTS = {
    "electricity-maps": {
        "zone": "DE",
        "forecast": [
            {"carbonIntensity": 326, "datetime": "2026-11-27T12:00:00.000Z"},
            {"carbonIntensity": 300, "datetime": "2026-11-27T13:00:00.000Z"},
        ],
    },
    "uk-carbon-intensity": {
        "data": [
            {"from": "2026-11-27T12:00Z", "intensity": {"forecast": 326, "actual": None}},
            {"from": "2026-11-27T12:30Z", "intensity": {"forecast": 326, "actual": None}},
            {"from": "2026-11-27T13:00Z", "intensity": {"forecast": 300, "actual": None}},
        ]
    },
    "energi-data-service": {
        "records": [
            {"Minutes5UTC": f"2026-11-27T{time}:00", "PriceArea": area, "CO2Emission": value}
            for time, of_time in {
                "12:00": {"DK1": 300.0, "DK2": 352.0},
                "12:30": {"DK1": 326.0, "DK2": 326.0},
                "13:00": {"DK1": 290.0, "DK2": 310.0},
                "13:30": {"DK1": 999.0},  # only half of the country: not known
            }.items()
            for area, value in of_time.items()
        ]
    },
}
ZONES = {"electricity-maps": "Germany", "uk-carbon-intensity": "GB", "energi-data-service": "DK"}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with intensity_server() as running:
        yield running


@pytest.mark.parametrize("provider", ZONES)
def test_forecast_is_read_and_waited_for(server, provider, told, tmp_path):
    server.answer = FORECASTS[provider]
    settings = WaitSettings(
        deadline="90min", duration="30min", provider=provider, region=ZONES[provider]
    )
    plan = wait_for_start(
        settings,
        command="work",
        last_duration_s=lambda: None,
        say=told.append,
        clock=MovedClock(NOW),
        environment={"ELECTRICITY_MAPS_API_KEY": "key"},
        folder=tmp_path,
        base_url=server.url,
    )
    assert plan.start_s == unix_s_from_iso8601("2026-11-27T13:00Z")
    assert (plan.g_per_kwh, plan.g_per_kwh_now) == (300.0, 326.0)
    assert plan.source.startswith("forecast of ")
    assert server.keys == ["key" if provider == "electricity-maps" else None]


@pytest.mark.parametrize("provider", ZONES)
def test_provider_without_an_answer_is_a_start_at_once(server, provider, told, tmp_path):
    server.answer = {"zone": "DE", "records": [], "data": [], "forecast": []}
    settings = WaitSettings(deadline="90min", provider=provider, region=ZONES[provider])
    series, reason = settings.intensities(
        now_s=0.0, environment={"ELECTRICITY_MAPS_API_KEY": "key"}, base_url=server.url
    )
    assert series is None
    assert "answered for" in reason


def test_provider_needs_a_region_and_a_key(told, tmp_path):
    with pytest.raises(InvalidInputError, match="provider needs a region"):
        wait(told, tmp_path, WaitSettings(deadline="1h", provider="uk-carbon-intensity"))
    with pytest.raises(InvalidInputError, match="set ELECTRICITY_MAPS_API_KEY"):
        wait(told, tmp_path, WaitSettings(deadline="1h", provider="electricity-maps", region="DE"))
    with pytest.raises(InvalidInputError, match="provider is 'oracle'"):
        fetch_forecast("oracle", "DE", now_s=0.0)


def test_plan_is_never_worse_than_a_start_at_once(hourly):
    series = read_intensity_file(hourly)
    now_s = unix_s_from_iso8601(NOW)
    for hours in range(2, 12):
        plan = plan_start(series, now_s=now_s, deadline_s=now_s + hours * 3600, duration_s=1800.0)
        assert plan.g_per_kwh == pytest.approx(
            mean_g_per_kwh(series, plan.start_s, plan.start_s + 1800.0)
        )
        assert plan.g_per_kwh <= plan.g_per_kwh_now
        assert plan.start_s + 1800.0 <= plan.deadline_s


# The saving on runs.


def test_saved_grams_are_energy_by_the_difference(store, hourly, told, tmp_path):
    client = MlflowClient(tracking_uri=store)
    run_id = write_run(client, "train", windows=[(3.0, 10.0), (5.0, 10.0)], unit="iteration")
    settings = WaitSettings(deadline="6h", duration="1h", intensity_file=str(hourly))
    note_saving(client, run_id, wait(told, tmp_path, settings))
    # 8 kWh at PUE 1.5: 12 kWh x (400 - 100) g/kWh
    assert client.get_run(run_id).data.tags["carbon.wait.saved_co2e_g"] == "3600"


PROJECT = """
name: small
entry_points:
  main:
    parameters:
      code: {type: float, default: 0}
    command: python main.py {code}
"""
SCRIPT = """
import sys
import mlflow
with mlflow.start_run():
    mlflow.log_param("started", "yes")
sys.exit(int(float(sys.argv[1])))
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose `python` is this one."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "MLproject").write_text(PROJECT)
    (folder / "main.py").write_text(SCRIPT)
    return folder


def run_project(project, store, config, *, clock=None, params=None, is_awaited=False):
    """Runs the project by the backend as ``mlflow run`` does."""
    named = {
        utils.PROJECT_ENV_MANAGER: "local",
        utils.PROJECT_SYNCHRONOUS: is_awaited,
        utils.PROJECT_DOCKER_ARGS: None,
        utils.PROJECT_STORAGE_DIR: None,
        utils.PROJECT_BUILD_IMAGE: False,
        utils.PROJECT_DOCKER_AUTH: None,
    }
    backend = CarbonBackend(clock or MovedClock(NOW), project.parent / "starts")
    return backend.run(str(project), "main", params or {}, None, config | named, store, "0")


@pytest.mark.slow
def test_backend_waits_runs_and_tags_the_run(project, store, hourly, capsys):
    clock = MovedClock(NOW)
    config = {"deadline": "6h", "region": "DE", "intensity_file": str(hourly)}
    submitted = run_project(project, store, config, clock=clock)
    assert clock.now_s == unix_s_from_iso8601("2026-11-27T15:00Z")
    run = MlflowClient(tracking_uri=store).get_run(submitted.run_id)
    assert (run.info.status, run.data.params["started"]) == ("FINISHED", "yes")
    tags = {key: value for key, value in run.data.tags.items() if key.startswith("carbon.wait.")}
    tags.pop("carbon.wait.command")
    assert tags == {
        "carbon.wait.start": "2026-11-27T15:00Z",
        "carbon.wait.deadline": "2026-11-27T18:00Z",
        "carbon.wait.g_per_kwh": "100",
        "carbon.wait.g_per_kwh_at_once": "400",
        "carbon.wait.saving_fraction": "0.75",
        "carbon.wait.source": "own file (hourly.csv)",
    }
    assert "mlflow-carbon: waits until 2026-11-27T15:00Z" in capsys.readouterr().err
    # the next run of the same work is expected to take as long as this one
    run_project(project, store, config, clock=MovedClock(NOW))
    assert "assumed" not in capsys.readouterr().err


@pytest.mark.slow
def test_backend_finds_the_last_run_in_the_experiment_that_the_project_asks_for(
    project, store, hourly, capsys
):
    (project / "MLproject").write_text(PROJECT + "mlflow_carbon:\n  experiment: own\n")
    config = {"deadline": "6h", "region": "DE", "intensity_file": str(hourly)}
    with click.Context(click.Command("run")):  # a command line that names no experiment
        for is_first in (True, False):
            run_project(project, store, config)
            assert ("assumed" in capsys.readouterr().err) == is_first
    assert MlflowClient(tracking_uri=store).search_runs(["0"]) == []


@pytest.mark.slow
def test_backend_reports_an_entry_point_that_fails(project, store):
    with pytest.raises(ExecutionException, match="failed"):
        run_project(project, store, {"deadline": "6h"}, params={"code": "3"})
    (run,) = MlflowClient(tracking_uri=store).search_runs(["0"])
    assert run.data.tags["carbon.wait.reason"].startswith("no hourly intensities are named")


def test_backend_that_is_interrupted_leaves_no_run(project, store, hourly, capsys):
    config = {"deadline": "6h", "intensity_file": str(hourly)}
    with pytest.raises(KeyboardInterrupt):
        run_project(project, store, config, clock=MovedClock(NOW, ends=interrupted_at(NOW)))
    assert MlflowClient(tracking_uri=store).search_runs(["0"]) == []
    assert "stopped waiting; nothing was started." in capsys.readouterr().err


def test_backend_says_what_is_wrong_before_it_waits(project, store):
    with pytest.raises(ExecutionException, match="backend carbon: deadline is 'soon'"):
        run_project(project, store, {"deadline": "soon"})


@pytest.mark.slow
def test_mlflow_finds_the_backend_by_its_name(project, store, tmp_path):
    # as an installation writes it, whatever release is installed here
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    metadata = tmp_path / "site" / "mlflow_carbon-0.2.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: mlflow-carbon\nVersion: 0.2.0\n"
    )
    groups = [f"[{name}]{of}" for name, of in setup["options.entry_points"].items()]
    (metadata / "entry_points.txt").write_text("\n".join(groups) + "\n")
    path = os.pathsep.join([str(metadata.parent), str(ROOT)])
    command = [sys.executable, "-m", "mlflow", "run", str(project), "-b", "carbon"]
    config = json.dumps({"deadline": "12h", "region": "DE"})
    done = subprocess.run(
        [*command, "--env-manager", "local", "--backend-config", config],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "mlflow-carbon: starts at once: no hourly intensities are named" in done.stderr
    (run,) = MlflowClient(tracking_uri=store).search_runs(["0"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.project.backend"] == "carbon"


# The command.


@pytest.fixture
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_CARBON_JOURNAL_DIR", str(tmp_path / "state"))


@pytest.mark.slow
@pytest.mark.usefixtures("own_state")
def test_run_command_waits_and_records_what_that_saved(store, hourly):
    clock = MovedClock(NOW)
    options = ["--deadline", "6h", "--duration", "1h", "--intensity-file", str(hourly)]
    spin = f"{sys.executable} -c 'sum(range(10**7))'"
    done = CliRunner().invoke(cli, ["run", *options, "--", "sh", "-c", spin], obj=clock)
    assert done.exit_code == 0, done.output
    assert clock.now_s == unix_s_from_iso8601("2026-11-27T15:00Z")
    assert "mlflow-carbon: waits until 2026-11-27T15:00Z" in done.stderr
    (run,) = MlflowClient(tracking_uri=store).search_runs(["0"])
    assert run.data.tags["carbon.wait.saving_fraction"] == "0.75"
    energy_kwh = run.data.metrics.get("carbon/energy_kwh")
    if energy_kwh is not None:  # a machine whose CPU is unknown measures none
        saved_g = float(run.data.tags["carbon.wait.saved_co2e_g"])
        assert saved_g == pytest.approx(energy_kwh * 300.0, rel=1e-5)  # PUE 1


@pytest.mark.usefixtures("own_state")
def test_run_command_ends_cleanly_while_it_waits(store, hourly):
    clock = MovedClock(NOW, ends=interrupted_at(NOW))
    options = ["--deadline", "6h", "--intensity-file", str(hourly)]
    done = CliRunner().invoke(cli, ["run", *options, "--", "true"], obj=clock)
    assert done.exit_code == 130
    assert done.stderr.splitlines()[-1].startswith("mlflow-carbon: stopped waiting;")
    assert MlflowClient(tracking_uri=store).search_runs(["0"]) == []


def test_run_command_refuses_what_needs_a_deadline(store):
    done = CliRunner().invoke(cli, ["run", "--duration", "1h", "--", "true"])
    assert done.exit_code == 2
    assert "need --deadline" in done.output
