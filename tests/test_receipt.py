"""The receipt: what it says, where it goes, and the same as a record."""

import fcntl
import io
import os
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

import mlflow_carbon
from mlflow_carbon.accounting.amounts import change_text, duration_text, energy_text, mass_text
from mlflow_carbon.accounting.cheaper import (
    Change,
    cheapest,
    cleaner_region,
    fewer_steps,
    half_the_units,
)
from mlflow_carbon.accounting.measurement_error import bounds_of
from mlflow_carbon.contract.measurement import DeviceEnergy
from mlflow_carbon.grid.intensity import given_intensity, lookup_intensity
from mlflow_carbon.reporting.receipt import Part, RunFootprint, receipt_lines
from mlflow_carbon.testing.meter import DESCRIPTION, FakeMeter, reading
from mlflow_carbon.tracking.receipts import is_silent, print_receipt
from tests.conftest import ROOT

# 36 J a reading by fake_meter: 0.01 Wh = 10 mWh; at 35.82 g/kWh 0.3582 mg
POLAND = {"region": "Poland", "pue": 1.0}


def blocks(capsys) -> list[list[str]]:
    """The receipts on stderr, line by line; nothing may stand on stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    found: list[list[str]] = []
    for line in captured.err.splitlines():
        if line.startswith("mlflow-carbon: "):
            found.append([line])
        elif found and line.startswith("  "):
            found[-1].append(line)
    return found


def test_receipt_says_cost_method_price_savings_and_place(fake_meter, capsys):
    with mlflow.start_run(run_name="mine") as run:
        mlflow.log_param("steps", 200)
        with mlflow_carbon.track(unit="sample", **POLAND) as tracker, tracker.window(4):
            pass
    (lines,) = blocks(capsys)
    # 36 J = 10 mWh by an estimated CPU; 615.11 g/kWh (Ember 2024): 6.15 mg; steps: 1 - 20/200
    g_per_kwh = lookup_intensity("Poland").g_per_kwh
    assert lines[0] == (
        f"mlflow-carbon: {mass_text(g_per_kwh * 1e-5)} CO2e · 10 mWh (each −50 to +100 %) in 1 s "
        "· run mine"
    )
    assert lines[1] == (
        f"  CPU estimated · PL {g_per_kwh:.4g} g/kWh (2024, ember), PUE 1 · 2.5 mWh per sample"
    )
    saved = 1 - lookup_intensity("Sweden").g_per_kwh / g_per_kwh
    assert lines[2] == (
        f"  cheaper: in Sweden {lookup_intensity('Sweden').g_per_kwh:.4g} g/kWh (2024, ember) "
        f"−{100 * saved:.0f} % · 20 steps up to −90 %"
    )
    assert lines[3].split(" (after")[0] == (
        f"  http://127.0.0.1:5000/#/experiments/0/runs/{run.info.run_id}"
        "?workflowType=machine_learning"
    )
    assert len(lines) == 4


def test_children_print_nothing_and_their_parent_counts_them(fake_meter, capsys):
    mlflow_carbon.autolog(**POLAND)
    with mlflow.start_run():
        for _ in range(3):
            with mlflow.start_run(nested=True):
                pass
    (lines,) = blocks(capsys)
    assert "3 child runs included" in lines[0]


@pytest.mark.parametrize("way", ["argument", "environment", "autolog"])
def test_silent_ends_it(fake_meter, capsys, monkeypatch, way):
    options = {"silent": True} if way == "argument" else {}
    if way == "environment":
        monkeypatch.setenv("MLFLOW_CARBON_SILENT", "true")
    if way == "autolog":
        mlflow_carbon.autolog(silent=True, **POLAND)
    with mlflow.start_run(), mlflow_carbon.track(**POLAND, **options):
        pass
    assert blocks(capsys) == []


@pytest.mark.parametrize(
    ("chosen", "text", "expected"),
    [(None, "", False), (None, "1", True), (None, "True", True), (False, "true", False)],
)
def test_argument_wins_over_the_variable(chosen, text, expected):
    assert is_silent(chosen, {"MLFLOW_CARBON_SILENT": text}) is expected


def test_tracker_and_last_footprint_give_the_receipt_as_a_record(fake_meter):
    with mlflow_carbon.track(unit="sample", **POLAND) as tracker, tracker.window(4):
        pass
    footprint = tracker.footprint
    assert footprint is mlflow_carbon.last_footprint()
    assert footprint.energy_kwh == pytest.approx(1e-5)  # 36 J
    assert footprint.energy_kwh_by_component == {"cpu": pytest.approx(1e-5)}
    assert footprint.energy_kwh_per_unit == pytest.approx(0.25e-5)
    assert footprint.co2e_g == pytest.approx(1e-5 * footprint.intensity.g_per_kwh)
    low_g, high_g = footprint.co2e_bounds_g
    assert (low_g, high_g) == (footprint.co2e_g / 2, footprint.co2e_g * 2)
    assert str(footprint).startswith("mlflow-carbon: ")
    assert footprint.run_id in repr(footprint)
    page = footprint._repr_html_()
    assert ">10 mWh (−50 to +100 %)<" in page
    assert "per sample</th><td style='text-align:left'>2.5 mWh<" in page  # the unit once


def test_footprint_of_a_run_that_goes_on_is_what_it_has_cost_so_far(fake_meter):
    with mlflow_carbon.track(unit="sample", **POLAND) as tracker:
        with tracker.window():
            pass
        assert tracker.footprint.energy_kwh == pytest.approx(1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "attribution", "other_cpu_fraction", "num_warnings"),
    [
        ("counter", "whole_node", 0.4, 1),
        ("tdp", "whole_node", 0.4, 1),
        ("counter", "whole_node", 0.05, 0),  # under a tenth
        ("counter", "whole_node", None, 0),
        ("tdp", "process_share", 0.4, 0),
        ("simulated", "whole_node", 0.4, 0),
    ],
)
def test_load_of_others_is_warned_of_where_the_energy_holds_it(
    store, caplog, method, attribution, other_cpu_fraction, num_warnings
):
    device = DeviceEnergy("cpu", 0, 1e-6, method)
    measured = replace(reading(cpu_joules=1), other_cpu_fraction=other_cpu_fraction)
    measured = replace(measured, devices=(device,))
    methods = {"cpu": method}
    described = replace(DESCRIPTION, method_by_component=methods, attribution=attribution)
    with mlflow.start_run(), mlflow_carbon.track(meter=FakeMeter([measured], described)):
        pass
    assert caplog.text.count("Other processes used") == num_warnings


def test_own_change_takes_the_place_of_the_general_one(fake_meter):
    with mlflow.start_run():
        mlflow.log_param("steps", 200)
        with mlflow_carbon.track(unit="sample", **POLAND) as tracker, tracker.window():
            tracker.could_save("20 steps", 0.7)
    texts = {change.text: change for change in tracker.footprint.changes}
    assert texts["20 steps"] == Change("20 steps", 0.7)
    with pytest.raises(mlflow_carbon.errors.InvalidInputError, match="saving_fraction is 2"):
        tracker.could_save("magic", 2)


@pytest.mark.slow
def test_training_that_a_run_sets_off_is_added_beside_it(fake_meter, capsys):
    with mlflow.start_run() as synth, mlflow_carbon.track(**POLAND, silent=True):
        pass
    capsys.readouterr()
    with (
        mlflow.start_run(tags={"carbon.triggered_by_run_id": synth.info.run_id}),
        mlflow_carbon.track(**POLAND, silent=True),
    ):
        pass
    with mlflow.start_run(run_id=synth.info.run_id), mlflow_carbon.track(**POLAND):
        pass
    (lines,) = blocks(capsys)
    assert "its 1 training: 6.15 mg more" in lines[0]


@pytest.mark.slow
def test_training_that_a_training_sets_off_is_added_beside_both(fake_meter, capsys):
    """As synth sets off a UNet's training, and that one an autoencoder's."""

    def metered(trigger=None, run_id=None):
        tags = None if trigger is None else {"carbon.triggered_by_run_id": trigger}
        with mlflow.start_run(run_id=run_id, tags=tags) as run, mlflow_carbon.track(**POLAND):
            pass
        return run.info.run_id

    synth, train = (MlflowClient().create_run("0").info.run_id for _ in range(2))
    MlflowClient().set_tag(train, "carbon.triggered_by_run_id", synth)
    metered(trigger=train)
    metered(run_id=train)
    metered(run_id=synth)
    _, of_train, of_synth = blocks(capsys)
    assert "its 1 training: 6.15 mg more" in of_train[0]
    assert "its 2 trainings: 12.3 mg more" in of_synth[0]


def test_nothing_measured_is_said_instead_of_zero():
    lines = receipt_lines(RunFootprint("abc", problem="No GPU can be measured."))
    assert lines == ["mlflow-carbon: no energy measured: No GPU can be measured"]


FULL = RunFootprint(
    "abc",
    name="synth 2D 64² unipc-200 seed 1",
    energy_kwh=1.93e-7,
    energy_bounds=bounds_of({"cpu": 1.93e-7}, {"cpu": "tdp"}),
    co2e_g=9.08e-5,
    duration_s=0.724,
    energy_kwh_by_component={"cpu": 1.93e-7},
    method_by_component={"cpu": "tdp"},
    unit="sample",
    energy_kwh_per_unit=1e-8,
    energy_kwh_per_unit_std=1e-9,
    intensity=lookup_intensity("WORLD"),
    pue=1.0,
    defaulted=("region",),
    attribution="process_share",
    other_cpu_fraction=0.83,
    children=Part(5),
    changes=(cleaner_region(lookup_intensity("WORLD")), Change("20 steps", 0.9, is_at_most=True)),
)


def test_receipt_in_a_terminal_of_80_columns_says_the_same_in_fewer_words():
    # each fits; the price keeps its figure, year and set, and others' load stays
    assert receipt_lines(FULL, columns=80) == [
        "mlflow-carbon: 90.8 µg CO2e · 193 µWh (each −50 to +100 %) · with 5 child runs",
        "  CPU estimated · others 83 % of CPU · WORLD 471.1 g/kWh (2024, ember), PUE 1",
        "  cheaper: in Sweden 35.82 g/kWh (2024, ember) −92 % · 20 steps up to −90 %",
    ]
    whole = receipt_lines(FULL)
    assert "(this process's share) · others used 83 % of the CPU" in whole[1]
    assert whole[1].endswith("PUE 1 (region is a default) · 10 µWh ± 10 % per sample")
    assert receipt_lines(FULL, columns=200) == whole


def test_receipt_is_as_wide_as_the_terminal_that_shows_it():
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(theirs, "w", encoding="utf-8") as stream:
        print_receipt(FULL, stream)
        printed = os.read(ours, 10_000).decode()
    os.close(ours)
    lines = printed.splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= 80


def test_name_of_the_run_cannot_act_on_the_terminal():
    hostile = RunFootprint("a", name="x\x1b[31m\nrm", energy_kwh=1.0, where="<script>")
    text = "\n".join(receipt_lines(hostile))
    assert "\x1b" not in text
    assert "\nrm" not in text
    assert "<script>" not in hostile._repr_html_()


def test_stream_that_knows_ascii_only_gets_ascii():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    footprint = RunFootprint("a", energy_kwh=1e-9, co2e_g=1e-6, changes=(Change("in Rome", 0.5),))
    print_receipt(footprint, stream)
    assert b"cheaper: in Rome -50 %" in raw.getvalue()
    stream.close()
    print_receipt(footprint, stream)  # closed: nothing to print on, and no error


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (energy_text(4.5e-5), "45 mWh"),
        (energy_text(12.34), "12.3 kWh"),
        (energy_text(0.99999), "1 kWh"),
        (energy_text(0), "0 Wh"),
        (mass_text(0.0176), "17.6 mg"),
        (mass_text(1234.5), "1.23 kg"),
        (mass_text(4.5e-8), "0.045 µg"),
        (change_text(0.924), "−92 %"),
        (duration_text(19.2), "19.2 s"),
        (duration_text(600), "10 min"),
        (duration_text(36000), "10 h"),
    ],
)
def test_amounts_have_three_digits_in_the_unit_that_fits(text, expected):
    assert text == expected


def test_bounds_are_those_of_each_method_added_up():
    bounds = bounds_of({"gpu": 2.0, "cpu": 1.0}, {"gpu": "counter", "cpu": "tdp"})
    assert (bounds.low_kwh, bounds.high_kwh) == (2 * 0.95 + 0.5, 2 * 1.05 + 2.0)
    assert bounds_of({"gpu": 2.0}, {}) is None
    assert bounds_of({"cpu": 1.0, "dram": 1.0}, {"cpu": "counter"}).high_kwh == 2.1


def test_cleaner_region_is_found_in_the_same_set_only():
    poland = lookup_intensity("Poland", intensity_set="paper_table1")
    assert cleaner_region(poland).saving_fraction == 1 - 7 / 666  # paper, Table 1
    assert cleaner_region(given_intensity(500)) is None
    assert cheapest([cleaner_region(lookup_intensity("Sweden"))]) == ()


def test_steps_and_halves_save_what_they_can_at_most():
    assert fewer_steps({"num_inference_steps": "'50'"}) == Change("20 steps", 0.6, is_at_most=True)
    assert fewer_steps({"steps": "20"}) is None
    assert fewer_steps({"steps": "many"}) is None
    half = half_the_units("epoch", windows_kwh=3.0, energy_kwh=4.0)
    assert half == Change("half the epochs", 0.375)
    assert half_the_units("sample", windows_kwh=3.0, energy_kwh=4.0) is None


def test_best_two_changes_come_first_and_small_ones_not_at_all():
    small, some, more = Change("a", 0.01), Change("b", 0.3), Change("c", 0.6)
    assert cheapest([small, None, some, more]) == (more, some)
    assert cheapest([some, more, replace(more, text="d")]) == (more, replace(more, text="d"))


SCRIPT = """
import mlflow, mlflow_carbon
with mlflow.start_run(), mlflow_carbon.track(region="SE"):
    sum(i * i for i in range(10**6))
print("mine")
"""


@pytest.mark.slow
def test_receipt_of_a_script_leaves_its_stdout_alone(store, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert done.stdout == "mine\n"
    assert done.stderr.count("mlflow-carbon: ") == 1


def test_public_names_are_listed():
    assert {"autolog", "track", "windows", "last_footprint"} <= set(dir(mlflow_carbon))
