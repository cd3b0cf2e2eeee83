"""docs/contract.md names what the code writes: no name more, none fewer."""

import re

import mlflow
import pytest
from mlflow import MlflowClient

import mlflow_carbon
from mlflow_carbon.contract import keys
from mlflow_carbon.registry.run_models import record_run_models
from mlflow_carbon.testing.meter import FakeMeter, meter_process_by, reading
from tests.fakes.documents import DOCS

PAGE = (DOCS / "contract.md").read_text()
ARTIFACT = "carbon/footprint.json"
NAMED = set(re.findall(r"`(carbon[./][\w./<>]+)`", PAGE)) - {ARTIFACT}
PATTERNS = [re.compile(re.sub(r"<\w+>", r"[\\w.-]+", re.escape(name))) for name in NAMED]
# Of version 1; on its way only; one part of a name.
NOT_OF_VERSION_2 = {
    keys.FACILITY_ENERGY_KWH,
    keys.DURATION_S,
    keys.INTENSITY_G_PER_KWH,
    keys.PUE,
    keys.COVERAGE_FRACTION,
    keys.WINDOW_PREFIX,
    keys.WINDOW_ENERGY_KWH,
    keys.WINDOW_DURATION_S,
    keys.WINDOW_POWER_W,
    keys.WINDOW_NUM_UNITS,
    keys.TAG_NOTE,
    keys.TAG_NODE_STATE,
}


def defined() -> set[str]:
    """Returns the names of version 2 as the code has them, made names by their placeholders."""
    constants = {it for name, it in vars(keys).items() if name.isupper() and isinstance(it, str)}
    plain = {it for it in constants if re.match(r"carbon[./]\w", it)} - NOT_OF_VERSION_2
    return plain | {
        keys.co2e_g_per_unit("<unit>"),
        keys.component_curve_kwh("<component>"),
        keys.method_tag("<component>"),
        keys.default_tag("<setting>"),
        keys.windows_tag("<unit>"),
        keys.inference_tag("<way>"),
        "carbon.under_<limit>",
        "carbon.node.<index>.state",
    }


def unknown(names) -> list[str]:
    """Returns those of our names that the page does not have."""
    ours = [name for name in names if name.startswith("carbon")]
    return [name for name in ours if not any(it.fullmatch(name) for it in PATTERNS)]


def test_page_names_all_that_the_code_defines_and_nothing_else():
    assert defined() - NAMED == set()
    assert NAMED - defined() == set()


def test_placeholders_stand_for_names_that_the_code_makes():
    assert (
        unknown(
            [
                keys.under_tag(1e-6),
                keys.under_tag(0.1),
                keys.under_tag(1000),
                keys.node_tag("carbon.state", 1),
                keys.inference_tag("unipc-50"),
            ]
        )
        == []
    )
    assert unknown(["carbon/window/energy_kwh", "carbon.no_such"]) != []


@pytest.mark.slow
def test_a_run_and_its_model_carry_names_of_the_page_only(store):
    parts = [reading(cpu_joules=100, gpu_joules=[300, 20], duration_s=10)] * 5
    with meter_process_by(FakeMeter(parts)), mlflow.start_run() as run:
        with mlflow_carbon.track(unit="epoch", region="SE") as epochs, epochs.window():
            with mlflow_carbon.track(unit="iteration") as iterations:
                for _ in range(2):
                    with iterations.window(5):
                        pass
    client = MlflowClient()
    client.create_registered_model("m")
    client.create_model_version("m", "s3://bucket/m", run.info.run_id)
    record_run_models(client, run.info.run_id)
    data = client.get_run(run.info.run_id).data
    tags = client.get_model_version("m", "1").tags
    assert len(data.metrics) > 3
    assert keys.windows_tag("epoch") in data.tags
    assert len(data.tags) > 15
    assert len(tags) > 8
    assert unknown([*data.metrics, *data.tags, *tags]) == []
