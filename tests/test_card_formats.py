"""A model's footprint as other programs read it: Hugging Face, BoAmps, CycloneDX, the SCI."""

import json
import re

import jsonschema
import pytest
from click.testing import CliRunner
from huggingface_hub import HfApi, ModelCard
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput
from referencing import Registry, Resource

from mlflow_carbon.cli import cli
from tests.conftest import ROOT
from tests.fakes.intensity_server import intensity_server
from tests.test_model_card import TAGS, train

SCHEMAS = ROOT / "tests" / "fixtures" / "cyclonedx"

# What BoAmps 1.1 requires, and the values that it allows, in our own words. Source:
# https://github.com/Boavizta/BoAmps, model/report_schema.json and the four beside it.
TEXT, NUMBER = {"type": "string"}, {"type": "number"}
BOAMPS = {
    "type": "object",
    "required": ["task", "measures", "infrastructure"],
    "properties": {
        "header": {
            "type": "object",
            "required": ["reportDatetime"],
            "properties": {
                "reportDatetime": {"pattern": r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$"},
                "reportStatus": {"enum": ["draft", "final", "corrective", "other"]},
            },
        },
        "task": {
            "type": "object",
            "required": ["taskStage", "taskFamily", "algorithms", "dataset"],
            "properties": {
                "taskStage": TEXT,
                "taskFamily": TEXT,
                "algorithms": {"type": "array", "minItems": 1, "items": {"type": "object"}},
                "dataset": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["dataUsage", "dataType"],
                        "properties": {
                            "dataUsage": {"enum": ["input", "output"]},
                            "dataType": {"enum": ["image", "tabular", "text", "other"]},
                            "sourceUri": TEXT,
                        },
                    },
                },
            },
        },
        "measures": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["measurementMethod", "powerConsumption"],
                "properties": {
                    "measurementMethod": TEXT,
                    "version": TEXT,
                    "cpuTrackingMode": TEXT,
                    "gpuTrackingMode": TEXT,
                    "powerConsumption": NUMBER,
                    "measurementDuration": NUMBER,
                    "measurementDateTime": TEXT,
                },
                "additionalProperties": False,
            },
        },
        "infrastructure": {
            "type": "object",
            "required": ["infraType", "components"],
            "properties": {
                "infraType": {"enum": ["publicCloud", "privateCloud", "onPremise", "other"]},
                "components": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["componentType", "nbComponent"],
                        "properties": {"componentType": TEXT, "nbComponent": {"type": "integer"}},
                    },
                },
            },
        },
        "environment": {
            "type": "object",
            "required": ["country"],
            "properties": {"country": TEXT, "powerSourceCarbonIntensity": NUMBER},
        },
    },
    "additionalProperties": False,
}


@pytest.fixture
def client(store):
    return MlflowClient(tracking_uri=store)


def printed(form, *options):
    """Returns what the command prints, as JSON."""
    result = CliRunner().invoke(cli, ["card", "models:/ldm/1", "--format", form, *options])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def cyclonedx_schema():
    """A validator of the published schema, which refers to two others."""
    contents = {path.name: json.loads(path.read_text()) for path in SCHEMAS.glob("*.json")}
    base = "http://cyclonedx.org/schema/"  # of the references
    resources = [(base + name, Resource.from_contents(it)) for name, it in contents.items()]
    return jsonschema.Draft7Validator(
        contents["bom-1.6.SNAPSHOT.schema.json"], registry=Registry().with_resources(resources)
    )


# Figures of `train`: 8 kWh IT energy, PUE 1.5, 250 g/kWh: 12 kWh, 3 kg, 0.003 t.


@pytest.mark.slow
def test_bill_of_materials_fits_the_published_schema(client, cyclonedx_schema):
    train(client, "ldm", region="SE")
    bill = printed("cyclonedx")
    cyclonedx_schema.validate(bill)
    (component,) = bill["components"]
    assert (component["type"], component["name"], component["version"]) == (
        "machine-learning-model",
        "ldm",
        "1",
    )
    considered = component["modelCard"]["considerations"]["environmentalConsiderations"]
    (training,) = considered["energyConsumptions"]
    assert training["activity"] == "training"
    assert training["activityEnergyCost"] == {"value": 12.0, "unit": "kWh"}
    assert training["co2CostEquivalent"] == {"value": pytest.approx(0.003), "unit": "tCO2eq"}
    (provider,) = training["energyProviders"]
    assert provider["description"].startswith(
        "electricity of Sweden 2022: 250 g/kWh (paper_table1: EEA;"
    )
    told = {it["name"]: it["value"] for it in training["properties"]}
    assert told["mlflow-carbon:it_energy_kwh"] == "8"


@pytest.mark.slow
def test_schema_of_cyclonedx_refuses_what_is_wrong(client, cyclonedx_schema):
    train(client, "ldm")
    bill = printed("cyclonedx", "--training-type", "fine-tuning")
    training = bill["components"][0]["modelCard"]["considerations"]["environmentalConsiderations"]
    assert training["energyConsumptions"][0]["activity"] == "fine-tuning"
    training["energyConsumptions"][0]["activityEnergyCost"]["unit"] = "J"
    with pytest.raises(jsonschema.ValidationError, match="'kWh'"):
        cyclonedx_schema.validate(bill)


@pytest.mark.slow
def test_reports_on_one_version_have_one_id(client):
    train(client, "ldm")
    ids = {printed("cyclonedx")["serialNumber"] for _ in range(2)}
    assert len(ids) == 1
    assert f"urn:uuid:{printed('boamps')['header']['reportId']}" in ids


@pytest.mark.slow
def test_report_has_what_boamps_requires(client):
    train(client, "ldm", region="SE")
    report = printed("boamps", "--task-family", "image generation")
    jsonschema.Draft7Validator(BOAMPS).validate(report)
    task, (measure,) = report["task"], report["measures"]
    assert (task["taskStage"], task["taskFamily"]) == ("training", "image generation")
    assert task["dataset"] == [{"dataUsage": "input", "dataType": "other"}]
    assert measure["powerConsumption"] == 8.0  # of IT: BoAmps knows no PUE
    assert (measure["measurementMethod"], measure["version"]) == ("carbontracker", "2.4.7")
    assert measure["cpuTrackingMode"] == "counter"
    assert "gpuTrackingMode" not in measure  # missing is absent
    assert report["infrastructure"]["components"] == [
        {"componentType": "cpu", "nbComponent": 1, "componentName": "1 × NVIDIA A100"}
    ]
    assert report["environment"] == {"country": "Sweden", "powerSourceCarbonIntensity": 250.0}


@pytest.mark.slow
def test_boamps_takes_a_default_region_for_no_country(client):
    train(client, "ldm", tags=TAGS | {"carbon.default.region": "EU27"})
    report = printed("boamps")
    jsonschema.Draft7Validator(BOAMPS).validate(report)
    assert "environment" not in report


@pytest.mark.slow
def test_boamps_names_datasets_by_public_addresses_only(client):
    train(client, "ldm")
    run_id = client.get_model_version("ldm", "1").run_id
    sources = ("https://example.org/ct.zip", "/home/me/secret.csv", "https://me:key@example.org")
    named = [Dataset(str(i), str(i), "http", source) for i, source in enumerate(sources)]
    client.log_inputs(run_id, datasets=[DatasetInput(it) for it in named])
    listed = printed("boamps")["task"]["dataset"]
    assert [it["sourceUri"] for it in listed if "sourceUri" in it] == [sources[0]]
    assert len(listed) == 3


@pytest.mark.slow
def test_sci_is_operational_and_embodied_per_training(client):
    train(client, "ldm", region="SE")
    score = printed("sci")
    assert (score["E_kwh"], score["I_g_per_kwh"], score["R"]) == (12.0, 250.0, 1)
    assert (score["O_g"], score["SCI_g_per_functional_unit"]) == (3000.0, 3000.0)
    assert score["is_operational_only"]
    assert "M_g" not in score
    # 2 min of 5 years of 150 kg: 150000 x 120 / (5 x 8760 x 3600) = 0.11416 g
    score = printed("sci", "--embodied-kg", "150", "--device-lifetime-years", "5")
    assert score["M_g"] == pytest.approx(0.114155, rel=1e-4)
    assert score["SCI_g_per_functional_unit"] == pytest.approx(3000.114155)
    assert not score["is_operational_only"]


def test_options_that_do_not_belong_together_are_refused(client):
    for options in (
        ("--format", "sci", "--embodied-kg", "1"),
        ("--embodied-kg", "1", "--device-lifetime-years", "1"),
        ("--format", "boamps", "--lineage"),
        ("--format", "cyclonedx", "--bibtex"),
    ):
        result = CliRunner().invoke(cli, ["card", "models:/ldm/1", *options])
        assert (result.exit_code, "Usage" in result.output) == (2, True), options


@pytest.mark.slow
def test_text_of_a_store_cannot_leave_its_json(client):
    train(client, "ldm", tags=TAGS | {"carbon.hardware": 'a"}\n\x1b[2J'})
    for form in ("boamps", "cyclonedx", "sci"):
        result = CliRunner().invoke(cli, ["card", "models:/ldm/1", "--format", form])
        assert json.loads(result.stdout)
        assert re.search(r"[^\x20-\x7e\n]", result.stdout) is None


# Hugging Face: its own client filters what a server lists.


@pytest.mark.slow
@pytest.mark.parametrize(("limits", "is_found"), [((2000.0, 4000.0), True), ((0.0, 2000.0), False)])
def test_hub_finds_the_model_by_its_emissions(client, monkeypatch, limits, is_found):
    monkeypatch.setenv("no_proxy", "*")
    train(client, "ldm")
    text = CliRunner().invoke(cli, ["card", "models:/ldm/1", "--format", "huggingface"]).stdout
    with intensity_server() as hub:
        hub.answer = [{"id": "me/ldm", "cardData": ModelCard(text).data.to_dict()}]
        api = HfApi(endpoint=hub.url, token=False)
        found = list(api.list_models(emissions_thresholds=limits, cardData=True))
    assert [it.id for it in found] == (["me/ldm"] if is_found else [])


@pytest.mark.slow
def test_figure_that_the_hub_would_misread_is_said(client):
    train(client, "ldm", (1e-8, 1e-8))  # 2e-8 kWh x 1.5 x 250 g/kWh = 7.5e-6 g
    result = CliRunner().invoke(cli, ["card", "models:/ldm/1"])
    assert "emissions: 7.5e-06\n" in result.stdout
    assert result.stderr.startswith("Below 0.1 mg, list_models(emissions_thresholds=…)")
