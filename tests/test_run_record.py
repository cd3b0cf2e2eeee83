"""One record of a run: what it writes it reads, and what no run can hold it refuses by name."""

import math
import string
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.entities import Metric

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.assumptions import SETTINGS
from mlflow_carbon.contract.measurement import DeviceEnergy, MeterDescription
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.totals import NodePart, Total
from mlflow_carbon.contract.windows import UnitEnergy, Window, WindowColumns, without_overlap
from mlflow_carbon.errors import BadRecordError
from mlflow_carbon.grid.intensity import CarbonIntensity

RUN_ID = "0" * 32
TIME_MS = 1_700_000_000_000

amounts = st.floats(0, 1e9)
texts = st.text(string.ascii_letters + string.digits + " .", min_size=1, max_size=20)
components = st.sampled_from(["cpu", "gpu", "dram"])
units = st.sampled_from(keys.UNITS)
times_ms = st.integers(0, 4_000_000_000_000)
METHODS = {"cpu": "tdp", "gpu": "counter", "dram": "sampled"}

intensities = st.builds(
    CarbonIntensity,
    g_per_kwh=amounts,
    region=texts,
    period=texts,
    intensity_set=texts,
    basis=texts,
    source=texts,
    source_url=st.just(""),
    licence=st.just(""),
)
descriptions = st.builds(
    MeterDescription,
    components=st.lists(components, min_size=1, unique=True).map(tuple),
    method_by_component=st.just(METHODS),
    cpu_tdp_source=st.none() | texts,
    attribution=texts,
    hardware=texts,
    tracker=texts,
    problems=st.just(()),
)


@st.composite
def totals(draw):
    places = draw(st.lists(st.tuples(components, st.integers(0, 7)), unique=True))
    if not places:
        return Total(draw(amounts))
    devices = [DeviceEnergy(*place, draw(amounts), METHODS[place[0]]) for place in places]
    return Total(
        duration_s=draw(amounts),
        energy_kwh=draw(amounts),
        coverage_fraction=draw(st.none() | st.floats(0, 1)),
        energy_kwh_by_component={device.component: draw(amounts) for device in devices},
        devices=tuple(devices),
    )


@st.composite
def records(draw):
    """Any record that a run may hold, without windows."""
    parts = draw(
        st.dictionaries(
            st.integers(0, 300),
            st.builds(
                NodePart,
                total=st.none() | totals(),
                energy_per_unit=st.dictionaries(units, amounts),
                end_ms=times_ms,
                has_ended=st.booleans(),
            ),
            max_size=3,
        )
    )
    total = draw(totals())
    is_measured = total.energy_kwh is not None
    num_windows = draw(st.none() | st.integers(1, 10**6))
    figures = st.builds(UnitEnergy, amounts, st.none() | amounts)
    return RunRecord(
        RUN_ID,
        scope=draw(st.none() | st.sampled_from(["run", "parent"])),
        total=total,
        energy_per_unit=draw(st.dictionaries(units, figures)) if is_measured else {},
        co2e_g=draw(amounts) if is_measured else None,
        pue=draw(st.floats(1, 3)),
        intensity=draw(intensities),
        defaulted=tuple(name for name in SETTINGS if draw(st.booleans())),
        fallback_reason=draw(st.none() | texts),
        description=draw(st.none() | descriptions)
        or MeterDescription(("cpu",), METHODS, None, "whole_node", "1 CPU", "meter 1", ()),
        unit=None if num_windows is None else draw(units),
        num_units=None if num_windows is None else float(draw(st.integers(1, 999_999))),
        num_windows=num_windows,
        num_distinct_readings=num_windows,
        first_window_step=draw(st.integers(1, 1000)),
        num_nodes=draw(st.integers(0, 300)),
        missing_nodes=tuple(map(str, draw(st.lists(st.integers(0, 300), max_size=3)))),
        parts=parts,
        is_partial=draw(st.booleans()),
        total_end_ms=draw(st.none() | st.integers(1, 4_000_000_000_000)),
        part_start_ms=draw(st.none() | times_ms),
    )


def in_order(total):
    """Returns a total with its devices in one order; a store keeps none."""
    return None if total is None else replace(total, devices=tuple(sorted(total.devices, key=str)))


def comparable(record):
    parts = {i: replace(part, total=in_order(part.total)) for i, part in record.parts.items()}
    return replace(record, total=in_order(record.total), parts=parts)


@pytest.mark.slow
@given(record=records())
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read_as_it_was(record):
    read = RunRecord.parse(RUN_ID, record.metrics(), record.tags())
    assert comparable(read) == comparable(record)


windows = st.builds(
    Window,
    end_unix_s=times_ms.map(lambda time_ms: time_ms / 1000),
    duration_s=amounts,
    energy_kwh=amounts,
    energy_kwh_by_component=st.dictionaries(components, amounts, max_size=3),
    num_units=amounts,
    unit=st.just("epoch"),
)


def metrics_of_version_1(window):
    """Returns the points of a window as version 1 of the contract wrote them."""
    values = {
        keys.WINDOW_ENERGY_KWH: window.energy_kwh,
        keys.WINDOW_DURATION_S: window.duration_s,
        keys.WINDOW_NUM_UNITS: window.num_units,
    }
    for component, energy_kwh in window.energy_kwh_by_component.items():
        values[keys.window_component_energy_kwh(component)] = energy_kwh
    return values


def histories_of(windows_by_step):
    histories = {}
    for step, window in windows_by_step.items():
        for key, value in metrics_of_version_1(window).items():
            point = Metric(key, value, round(window.end_unix_s * 1000), step)
            histories.setdefault(key, []).append(point)
    return histories


@pytest.mark.slow
@given(written=st.dictionaries(st.integers(1, 10**6), windows, max_size=8))
@settings(max_examples=100, deadline=None)
def test_windows_that_are_written_are_read_as_they_were(written):
    tags = {keys.TAG_UNIT: "epoch"}
    assert RunRecord.parse(RUN_ID, {}, tags, histories_of(written)).windows == written


def test_windows_before_the_first_step_of_the_unit_count_something_else():
    window = Window(TIME_MS / 1000, 1.0, 1.0, {}, 1.0, "epoch")
    tags = {keys.TAG_UNIT: "epoch", keys.TAG_FIRST_WINDOW_STEP: "2"}
    read = RunRecord.parse(RUN_ID, {}, tags, histories_of({1: window, 2: window}))
    assert [one.unit for one in read.windows.values()] == [None, "epoch"]


def test_run_of_another_program_reads_as_nothing():
    read = RunRecord.parse(RUN_ID, {"loss": math.nan, "carbon": -1.0}, {"mlflow.user": "me"})
    assert read == RunRecord(RUN_ID)


MAX_OF_A_DATABASE = 1.7976931348623157e308  # what MLflow keeps of infinity


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[(keys.ENERGY_KWH, value) for value in (math.nan, math.inf, -1.0, MAX_OF_A_DATABASE)],
        (keys.PUE, 0.5),
        (keys.PUE, 1e6),
        (keys.INTENSITY_G_PER_KWH, -7.0),
        (keys.CO2E_G, math.nan),
        (keys.CO2E_KG, -math.inf),
        (keys.DURATION_S, -1.0),
        (keys.COVERAGE_FRACTION, 2.0),
        ("carbon/gpu/energy_kwh", -1.0),
        ("carbon/gpu/0/energy_kwh", math.nan),
        ("carbon/energy_kwh_per_sample", math.inf),
        ("carbon/energy_kwh_per_sample_std", -1.0),
        ("carbon/node/1/energy_kwh", math.nan),
    ],
)
def test_metric_that_cannot_be_is_refused_with_run_and_field(key, value):
    metrics = {keys.ENERGY_KWH: 1.0, "carbon/energy_kwh_per_sample": 1.0, key: value}
    tags = {"carbon.node.1.state": "ended 5", keys.TAG_UNIT: "sample"}
    with pytest.raises(BadRecordError, match=f"{key} of run {RUN_ID} is ") as caught:
        RunRecord.parse(RUN_ID, metrics, tags)
    assert (caught.value.run_id, caught.value.field) == (RUN_ID, key)


@pytest.mark.parametrize("text", ["two", "", "-1", "1.5", "²", "1e3", "9" * 5000, "inf"])
@pytest.mark.parametrize(
    "tag",
    [keys.TAG_NUM_NODES, keys.TAG_NUM_WINDOWS, keys.TAG_FIRST_WINDOW_STEP, "carbon.node.0.state"],
)
def test_count_that_is_none_is_refused_with_run_and_field(tag, text):
    value = f"running {text}" if tag.endswith("state") else text
    with pytest.raises(BadRecordError) as caught:
        RunRecord.parse(RUN_ID, {}, {tag: value})
    assert (caught.value.run_id, caught.value.field) == (RUN_ID, tag)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["many", "nan", "-1", "inf", "1e300"])
def test_number_of_units_that_is_none_is_refused(text):
    with pytest.raises(BadRecordError, match=keys.TAG_NUM_UNITS):
        RunRecord.parse(RUN_ID, {}, {keys.TAG_NUM_UNITS: text})


@pytest.mark.parametrize(
    ("tag", "text"),
    [(keys.TAG_PUE, "0.5"), (keys.TAG_PUE, "one"), (keys.TAG_INTENSITY_G_PER_KWH, "nan")],
)
def test_assumption_that_cannot_be_is_refused(tag, text):
    with pytest.raises(BadRecordError) as caught:
        RunRecord.parse(RUN_ID, {}, {tag: text})
    assert caught.value.field == tag


def test_node_that_has_no_number_is_refused():
    with pytest.raises(BadRecordError, match=r"carbon\.node\.first\.state"):
        RunRecord.parse(RUN_ID, {}, {"carbon.node.first.state": "ended 5"})


@pytest.mark.parametrize(
    ("value", "timestamp_ms"),
    [(math.nan, TIME_MS), (-1.0, TIME_MS), (1.0, 253_402_300_799_000), (1.0, -1)],  # year 9999
)
def test_window_that_cannot_be_is_refused_with_its_step(value, timestamp_ms):
    window = Window(TIME_MS / 1000, 1.0, 1.0, {}, 1.0, "epoch")
    histories = histories_of({1: window, 2: window})
    point = Metric(keys.WINDOW_ENERGY_KWH, value, timestamp_ms, 2)
    histories[keys.WINDOW_ENERGY_KWH][1] = point
    with pytest.raises(BadRecordError, match="carbon/window/energy_kwh at step 2 of run"):
        RunRecord.parse(RUN_ID, {}, {}, histories)


# Windows of a run that was killed


def window_of(start_s, duration_s, energy_kwh):
    end_s = TIME_MS / 1000 + start_s + duration_s
    return Window(end_s, duration_s, energy_kwh, {"gpu": energy_kwh}, 1.0, "epoch")


def test_windows_that_overlap_count_once():
    inner = [window_of(start_s, 5, 1.0) for start_s in (0, 5)]
    epoch = window_of(0, 10, 2.5)  # with what was spent between the inner ones
    after = window_of(10, 5, 4.0)
    assert without_overlap([*inner, epoch, after]) == [epoch, after]
    assert without_overlap([*inner, replace(epoch, energy_kwh=1.5), after]) == [*inner, after]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20), st.integers(0, 9)), max_size=8))
@settings(max_examples=100, deadline=None)
def test_best_windows_are_those_of_all_choices(spans):
    found = [window_of(start_s, length_s, float(kwh)) for start_s, length_s, kwh in spans]
    best = 0.0
    for bits in range(2 ** len(found)):  # tries every subset
        chosen = sorted(
            (one for number, one in enumerate(found) if bits >> number & 1),
            key=lambda one: one.end_unix_s,
        )
        if all(b.start_unix_s >= a.end_unix_s for a, b in pairwise(chosen)):
            best = max(best, sum(one.energy_kwh for one in chosen))
    assert sum(one.energy_kwh for one in without_overlap(found)) == best


def test_run_without_a_total_has_the_sum_of_its_windows_as_a_lower_bound():
    histories = histories_of({1: window_of(0, 10, 1.0), 2: window_of(20, 10, 2.0)})
    tags = {keys.TAG_UNIT: "epoch", keys.TAG_REGION: "SE"}
    metrics = {keys.PUE: 2.0, keys.INTENSITY_G_PER_KWH: 7.0}
    bound = RunRecord.parse(RUN_ID, metrics, tags, histories).or_lower_bound()
    assert bound.is_partial
    assert (bound.total.energy_kwh, bound.total.duration_s) == (3.0, 20.0)
    assert bound.co2e_g == 42.0  # 3 kWh x 2 x 7
    assert bound.energy_per_unit["epoch"].energy_kwh == 1.5
    assert bound.tags()["carbon.partial"] == "true"


def test_run_with_a_total_is_no_lower_bound():
    record = RunRecord(RUN_ID, total=Total(1.0, 5.0), windows={1: window_of(0, 1, 1.0)})
    assert record.or_lower_bound() is record


def test_components_of_windows_go_to_the_one_device_or_to_none():
    windows_only = Total.of_windows([window_of(0, 10, 3.0)])
    for num_devices, expected in ((1, [(0, 4.0)]), (2, [])):
        devices = tuple(DeviceEnergy("gpu", index, 1.0, "counter") for index in range(num_devices))
        known = Total(5.0, 1.0 * num_devices, 1.0, {"gpu": 1.0 * num_devices}, devices)
        total = windows_only.plus(known)
        assert total.energy_kwh_by_component == {"gpu": 3.0 + num_devices}
        assert [(one.index, one.energy_kwh) for one in total.devices] == expected


def test_coverage_that_nobody_knows_stays_unknown():
    blind = Total(10.0, 1.0, None, {"cpu": 1.0})
    assert blind.plus(blind).coverage_fraction is None
    assert "coverage_fraction" not in blind.words()


def test_windows_of_no_duration_have_no_power():
    window = Window(1.0, 0.0, 1.0, {}, 1.0, "epoch")
    assert window.power_w is None
    assert WindowColumns([window]).num_distinct_readings is None
