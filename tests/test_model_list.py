"""``mlflow-carbon models``: versions with their CO2e, in any place and at any time."""

import json

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from mlflow_carbon.cli import cli

MODELS = """\
model  version  band  CO2e (kg)  energy (kWh)
small        1  A       0.07500        0.2000
big          1  C         3.000         8.000

CO2e by EU27 250 g/kWh (2022, paper_table1).
PUE 1.5.

CO2e of the training is as much as
name   version  car (km)  phone charges  flight (km)    trees  1.5 °C budget (%)
small        1     0.694           6.05        0.311  0.00125            0.00648
big          1      27.8            242         12.4   0.0500              0.259

car: EU new cars 2022, final; phone: EPA, current; flight: paper, implied per
km; tree: EPA 2023; budget: 250 Gt, 8 billion people, 27 years; trees: what
they take up in ten years.
Ranges and sources: mlflow-carbon equivalents KG
"""


@pytest.fixture
def client(store):
    return MlflowClient(tracking_uri=store)


def invoke(*args):
    return CliRunner().invoke(cli, list(args))


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_models_prints_the_table():
    result = invoke("models", "--sort", "co2e")
    assert result.stdout == MODELS
    assert result.stderr == "Left out 1 version without emissions.\n"


@pytest.mark.usefixtures("registered")
def test_table_with_lineage_fits_80_columns(client):
    client.rename_registered_model("big", "ldm-ct-3d-128-large-unet")
    for name in ("small", "ldm-ct-3d-128-large-unet"):
        client.set_model_version_tag(name, "1", "carbon.lineage_co2e_kg", "3.5")
    lines = invoke("models").stdout.partition("\n\n")[0].splitlines()
    assert "lineage (kg)" in lines[0]
    assert max(map(len, lines)) <= 80


@pytest.mark.usefixtures("registered")
def test_models_of_several_pues_have_a_column_of_it(client):
    client.set_model_version_tag("small", "1", "carbon.pue", "1.2")
    told = invoke("models").stdout
    assert [line.split()[-1] for line in told.splitlines()[:3]] == ["PUE", "1.5", "1.2"]
    assert "\nPUE" not in told


@pytest.mark.usefixtures("registered")
def test_models_prices_each_training_by_its_own_times(tmp_path):
    # every training is the minute before 2023-11-14T22:13:20Z
    (tmp_path / "h.csv").write_text(
        "timestamp,g_per_kwh\n2023-11-14T22:00:00Z,100\n2023-11-14T23:00:00Z,900\n"
    )
    args = ("models", "--intensity-file", "h.csv", "--region", "my lab", "--format", "json")
    result = invoke(*args, "--pue", "2")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    # 8 kWh x PUE 2 x 100 g/kWh = 1.6 kg; 0.2 x 2 x 100 = 40 g
    assert [(row["name"], row["co2e_kg"]) for row in rows] == [
        ("big", pytest.approx(1.6)),
        ("small", pytest.approx(0.04)),
    ]
    assert {(row["region"], row["band"]) for row in rows} == {("my lab", "C"), ("my lab", "A")}
    assert "CO2e by own file (h.csv), each training by its own times." in result.stderr


@pytest.mark.usefixtures("registered")
def test_models_names_each_training_that_the_file_does_not_cover(tmp_path):
    (tmp_path / "h.csv").write_text(
        "timestamp,g_per_kwh\n2022-11-14T22:00:00Z,100\n2022-11-14T23:00:00Z,900\n"
    )
    result = invoke("models", "--intensity-file", "h.csv")
    assert result.exit_code == 0, result.output
    assert "small 1: No intensity for run " in result.stderr
    assert "big 1: No intensity for run " in result.stderr
    assert "Left out 3 versions without emissions." in result.stderr


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("args", "rc", "message"),
    [
        (("--intensity-file", "none.csv"), 1, "'none.csv' cannot be read"),
        (("--provider", "me", "--region", "DE"), 1, "provider is 'me'"),
        (("--provider", "uk-carbon-intensity"), 2, "--provider needs --region"),
        (("--month", "2022-02"), 2, "--month and --intensity-set need --region"),
    ],
)
def test_models_refuses_prices_that_cannot_be(args, rc, message):
    result = invoke("models", *args)
    assert (result.exit_code, result.stdout) == (rc, "")
    assert message in result.stderr


@pytest.mark.usefixtures("registered")
def test_models_lists_what_is_under_a_limit_in_another_region():
    args = ("--max-co2e-kg", "0.05", "--region", "Sweden", "--intensity-set", "paper_table1")
    result = invoke("models", *args, "--format", "json")
    rows = json.loads(result.stdout)
    # 0.2 kWh x 1.5 x 7 g/kWh = 2.1 g; the big one has 84 g.
    assert [(row["name"], row["co2e_kg"]) for row in rows] == [("small", pytest.approx(0.0021))]
    assert result.stderr == "CO2e by SE 7 g/kWh (2022, paper_table1).\n"


@pytest.mark.usefixtures("registered")
def test_models_says_where_bases_mix(client):
    version = client.get_model_version("big", "1")
    client.set_model_version_tag("big", version.version, "carbon.intensity_basis", "life-cycle")
    notices = invoke("models").stderr
    assert "rest on different bases and do not compare (EU27: life-cycle; EU27: prod" in notices


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("sort", "names"), [("name", ["big", "small"]), ("energy", ["small", "big"])]
)
def test_models_sorts(sort, names):
    rows = json.loads(invoke("models", "--sort", sort, "--format", "json").stdout)
    assert [row["name"] for row in rows] == names


@pytest.mark.usefixtures("store")
def test_models_of_an_empty_registry_says_so():
    result = invoke("models", "--format", "json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])
    assert result.stderr == "No model version to list.\n"


@pytest.mark.usefixtures("registered")
def test_models_says_that_none_is_under_the_limit():
    result = invoke("models", "--max-co2e-kg", "0.001")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "No model version to list at or under 0.001 kg CO2e.\n"
