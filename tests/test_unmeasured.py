"""A run that begins and ends without a figure gets few tags; any other gets them all."""

import pytest

from mlflow_carbon.contract.assumptions import resolve_assumptions
from mlflow_carbon.contract.measurement import MeterDescription
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.totals import Total
from mlflow_carbon.contract.unmeasured import needed_tags

METER = MeterDescription(
    components=("cpu",),
    method_by_component={"cpu": "tdp", "gpu": "unavailable"},
    cpu_tdp_source="generic",
    attribution="process_share",
    hardware="1 \u00d7 CPU",
    tracker="carbontracker 2.4.7",
    problems=("A counter did not move.",),
    cpu_idle_power_w=0.5,
)


def tags_of(energy_kwh=None, **changes):
    total = Total(duration_s=0.01, energy_kwh=energy_kwh)
    record = RunRecord("a" * 32, total=total, total_end_ms=1_700_000_000_000, description=METER)
    tags = record.assuming(resolve_assumptions(region="SE")).tags()
    return {**tags, "carbon.scope": "run", "carbon.plugin_version": "1", **changes}


def test_run_without_a_figure_says_why_and_how_it_was_to_be_measured():
    assert needed_tags(tags_of()) == {
        "carbon.schema": "2",
        "carbon.scope": "run",
        "carbon.plugin_version": "1",
        "carbon.error": "A counter did not move.",
        "carbon.method.cpu": "tdp",
        "carbon.method.gpu": "unavailable",
        "carbon.total": "ended 1700000000000 duration_s=0.01",
    }


@pytest.mark.parametrize("mine", ["carbon.shared", "carbon.launch", "carbon.exit_code", "mine"])
def test_what_describes_no_figure_is_kept(mine):
    assert needed_tags(tags_of(**{mine: "x"}))[mine] == "x"


@pytest.mark.parametrize("energy_kwh", [0.0, 1e-9])
def test_run_with_a_figure_gets_every_tag(energy_kwh):
    assert needed_tags(tags_of(energy_kwh)) == tags_of(energy_kwh)


@pytest.mark.parametrize(
    "absent", ["carbon.schema", "carbon.total"], ids=["has begun before", "has not ended"]
)
def test_part_of_a_run_gets_every_tag(absent):
    tags = tags_of()
    del tags[absent]
    assert needed_tags(tags) == tags


def test_run_that_goes_on_gets_every_tag():
    tags = tags_of(**{"carbon.total": "running 1700000000000 duration_s=0.01"})
    assert needed_tags(tags) == tags


def test_record_of_such_a_run_has_its_methods_and_no_price():
    record = RunRecord.parse("a" * 32, {}, needed_tags(tags_of()))
    assert record.total == Total(0.01)
    assert (record.pue, record.intensity, record.co2e_g) == (None, None, None)
    assert record.error == "A counter did not move."
    assert record.description is not None
    assert record.description.method_by_component == METER.method_by_component
