"""A model's full footprint: each training that it rests on counts once, over any depth."""

import math
from functools import partial

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelInput

from mlflow_carbon.registry.footprints import Footprint
from mlflow_carbon.registry.inference import sample_costs, sample_costs_by_model
from mlflow_carbon.registry.lineage import read_lineage
from mlflow_carbon.registry.run_models import record_run_models, tag_models
from tests.fakes.metered_runs import TIMESTAMP_MS, experiment_id, write_run

pytestmark = pytest.mark.slow


@pytest.fixture
def client(store):
    return MlflowClient(tracking_uri=store)


def train(client, energy_kwh, *, inputs=(), **figures):
    """Returns the run and the logged model of a training, at PUE 1.5 and 250 g/kWh.

    Each kWh is 375 g. ``None`` kWh could not be measured.
    """
    windows = [] if energy_kwh is None else [(energy_kwh, 100.0)]
    run_id = write_run(client, "exp", windows=windows, unit="iteration", **figures)
    model = client.create_logged_model(experiment_id(client, "exp"), "m", source_run_id=run_id)
    client.log_inputs(run_id, models=[LoggedModelInput(model_id) for model_id in inputs])
    return run_id, model.model_id


def register(client, name, run_id, model_id, tags=None):
    client.create_registered_model(name)
    client.create_model_version(name, f"models:/{model_id}", run_id, tags=tags)
    record_run_models(client, run_id)
    return client.get_model_version(name, "1").tags


def lineage(client, run_id):
    return read_lineage(client, [f"runs:/{run_id}"])


def test_lineage_of_a_model_built_from_nothing_is_its_own_training(client):
    run_id, _ = train(client, 8.0)
    found = lineage(client, run_id)
    assert (found.num_runs, found.priced_kg()) == (1, 3.0)


def test_lineage_holds_a_logged_input(client):
    _, vqgan = train(client, 2.0)
    run_id, ldm = train(client, 8.0, inputs=[vqgan])
    # (2 + 8) kWh x 0.375 kg/kWh
    assert register(client, "ldm", run_id, ldm)["carbon.lineage_co2e_kg"] == "3.75"


@pytest.mark.parametrize("place", ["run", "logged model", "version"])
def test_lineage_holds_a_parent_named_by_a_tag(client, place):
    parent_run_id, parent = train(client, 2.0)
    register(client, "base", parent_run_id, parent)
    client.set_registered_model_alias("base", "champion", "1")
    tag = {"carbon.parent_model": "models:/base@champion"}
    run_id, child = train(client, 8.0, tags=tag if place == "run" else {})
    if place == "logged model":
        client.set_logged_model_tags(child, tag)
    tags = register(client, "child", run_id, child, tags=tag if place == "version" else None)
    assert tags["carbon.lineage_co2e_kg"] == "3.75"


def test_lineage_follows_the_tags_of_the_versions_on_its_way(client):
    root_run_id, root = train(client, 1.0)
    register(client, "root", root_run_id, root)
    base_run_id, base = train(client, 2.0)
    register(client, "base", base_run_id, base, tags={"carbon.parent_model": "models:/root/1"})
    run_id, _ = train(client, 8.0, tags={"carbon.parent_model": "models:/base/1"})
    assert lineage(client, run_id).priced_kg() == pytest.approx(11 * 0.375)


def test_lineage_counts_the_top_of_a_diamond_once(client):
    _, top = train(client, 1.0)
    _, left = train(client, 2.0, inputs=[top])
    _, right = train(client, 4.0, inputs=[top])
    run_id, _ = train(client, 8.0, inputs=[left, right])
    found = lineage(client, run_id)
    assert found.num_runs == 4
    assert found.priced_kg() == pytest.approx(15 * 0.375)


def test_lineage_counts_each_of_a_circle_once(client):
    first_run_id, first = train(client, 1.0)
    second_run_id, second = train(client, 2.0, inputs=[first])
    client.log_inputs(first_run_id, models=[LoggedModelInput(second)])
    for run_id in (first_run_id, second_run_id):
        assert lineage(client, run_id).priced_kg() == pytest.approx(3 * 0.375)


def test_lineage_goes_as_deep_as_there_are_ancestors(client):
    model_ids: list[str] = []
    for _ in range(30):
        run_id, model_id = train(client, 1.0, inputs=model_ids[-1:])
        model_ids.append(model_id)
    assert lineage(client, run_id).priced_kg() == pytest.approx(30 * 0.375)


def test_lineage_takes_a_model_that_was_tried_on_itself_for_no_ancestor(client):
    run_id, model_id = train(client, 8.0)
    client.log_inputs(run_id, models=[LoggedModelInput(model_id)])
    assert "carbon.lineage_co2e_kg" not in register(client, "m", run_id, model_id)


def test_lineage_does_not_add_a_child_run_to_its_parent(client):
    parent_run_id, _ = train(client, 10.0)
    middle = write_run(client, "exp", windows=[], parent_run_id=parent_run_id)
    _, vqgan = train(client, 2.0, parent_run_id=middle)  # inside the parent's 10 kWh
    client.log_inputs(parent_run_id, models=[LoggedModelInput(vqgan)])
    assert lineage(client, parent_run_id).priced_kg() == pytest.approx(10 * 0.375)


def test_lineage_is_absent_and_says_why_where_an_ancestor_was_not_measured(client):
    unmeasured_run_id, vqgan = train(client, None, tags={"carbon.error": "No energy source."})
    run_id, ldm = train(client, 8.0, inputs=[vqgan])
    tags = register(client, "ldm", run_id, ldm)
    assert "carbon.lineage_co2e_kg" not in tags
    assert tags["carbon.lineage_problem"] == (
        f"run {unmeasured_run_id} could not be measured: No energy source."
    )
    assert tags["carbon.co2e_kg"] == "3"


def test_lineage_is_absent_and_says_why_where_an_ancestor_is_gone(client):
    run_id, ldm = train(client, 8.0, tags={"carbon.parent_model": "models:/gone/7"})
    tags = register(client, "ldm", run_id, ldm)
    assert "carbon.lineage_co2e_kg" not in tags
    assert tags["carbon.lineage_problem"].startswith("models:/gone/7 cannot be read: ")


def test_lineage_prices_each_training_with_its_own_pue(client):
    _, vqgan = train(client, 2.0, pue=1.0)
    run_id, _ = train(client, 8.0, inputs=[vqgan])
    # (2 x 1.0 + 8 x 1.5) kWh x 0.1 kg/kWh
    at_100 = partial(Footprint.priced_kg, intensity_g_per_kwh=100.0)
    assert lineage(client, run_id).priced_kg(at_100) == pytest.approx(1.4)
    # (2 + 8) kWh x 1.2 x 0.1 kg/kWh
    at_same_pue = partial(at_100, pue=1.2)
    assert lineage(client, run_id).priced_kg(at_same_pue) == pytest.approx(1.2)


def synthesise(client, model_id, joules_per_sample, num_samples, **figures):
    kwh = joules_per_sample / 3.6e6
    windows = [(kwh * num_samples, num_samples)]
    run_id = write_run(client, "synthesis", windows=windows, unit="sample", **figures)
    client.log_inputs(run_id, models=[LoggedModelInput(model_id)])
    assert record_run_models(client, run_id)
    return run_id


def inference_g(client, name):
    text = client.get_model_version(name, "1").tags.get("carbon.inference_co2e_g_per_sample")
    return None if text is None else float(text)


def test_sample_of_a_version_costs_the_mean_over_the_samples_of_all_runs(client):
    run_id, model_id = train(client, 8.0)
    register(client, "ldm", run_id, model_id)
    assert inference_g(client, "ldm") is None
    synthesise(client, model_id, 360.0, 10)
    # 360 J = 1e-4 kWh, x 1.5 x 250 g/kWh
    assert inference_g(client, "ldm") == pytest.approx(0.0375)
    synthesise(client, model_id, 720.0, 30)
    # (10 x 360 + 30 x 720) / 40 = 630 J, and not the 540 J of two runs that count alike
    assert inference_g(client, "ldm") == pytest.approx(0.0375 * 630 / 360)
    assert (
        client.get_registered_model("ldm").tags["carbon.inference_co2e_g_per_sample"]
        == client.get_model_version("ldm", "1").tags["carbon.inference_co2e_g_per_sample"]
    )


def test_each_way_of_sampling_has_its_own_figure_and_the_most_used_one_is_the_models(client):
    run_id, model_id = train(client, 8.0)
    register(client, "ldm", run_id, model_id)
    for sampler, steps, joules, num_samples in (
        ("unipc", "50", 360.0, 20),
        ("auto", "50", 720.0, 20),
        ("ddpm", "1000", 7200.0, 8),  # as `quality` does once: it may not double the rest
    ):
        params = {"sampler": sampler, "steps": steps}
        if sampler == "auto":
            params["resolved.sampler"] = "unipc"
        synthesise(client, model_id, joules, num_samples, params=params)
    tags = client.get_model_version("ldm", "1").tags
    per_sample = {
        key.removeprefix("carbon.inference_co2e_g_per_sample"): float(text)
        for key, text in tags.items()
        if key.startswith("carbon.inference_co2e_g_per_sample")
    }
    assert per_sample == pytest.approx({"": 0.05625, ".unipc-50": 0.05625, ".ddpm-1000": 0.75})
    assert tags["carbon.inference_way"] == "unipc-50"
    # once others used the model more, the figure is theirs, and nothing stale stays
    synthesise(client, model_id, 720.0, 100, params={"sampler": "a/b c", "steps": "9"})
    tags = client.get_registered_model("ldm").tags
    assert tags["carbon.inference_way"] == "a_b_c-9"
    assert float(tags["carbon.inference_co2e_g_per_sample"]) == pytest.approx(0.075)


def test_samples_of_many_models_cost_in_one_pass_what_each_costs_alone(client):
    models = [train(client, 8.0)[1] for _ in range(3)]
    for number, model_id in enumerate(models[:2]):
        synthesise(client, model_id, 360.0, 10 + number, region="PL", intensity_g_per_kwh=600.0)
        synthesise(client, model_id, 720.0, 30, region="SE", intensity_g_per_kwh=10.0)
    expected = {model_id: sample_costs(client, model_id) for model_id in models}
    assert expected.pop(models[2]) == []
    assert sample_costs_by_model(client) == expected


def test_tagging_many_models_changes_nothing_that_tagging_one_wrote(client):
    run_id, model_id = train(client, 8.0)
    register(client, "ldm", run_id, model_id)
    synthesise(client, model_id, 360.0, 10)
    assert [model.num_changed for model in tag_models(client, ["ldm"] * 11)] == [0] * 11


def test_sample_of_a_version_is_priced_in_one_region(client):
    run_id, model_id = train(client, 8.0)
    register(client, "ldm", run_id, model_id)
    synthesise(client, model_id, 360.0, 10, region="SE", intensity_g_per_kwh=10.0)
    synthesise(client, model_id, 360.0, 10, region="PL", intensity_g_per_kwh=600.0)
    # both runs by the newest one's 1.5 x 600 g/kWh
    assert inference_g(client, "ldm") == pytest.approx(1e-4 * 900)


def test_ways_of_sampling_are_priced_in_one_region_so_that_they_compare(client):
    run_id, model_id = train(client, 8.0)
    register(client, "ldm", run_id, model_id)
    many, few = {"sampler": "unipc", "steps": "40"}, {"sampler": "unipc", "steps": "20"}
    synthesise(client, model_id, 720.0, 10, params=many, intensity_g_per_kwh=10.0)
    synthesise(client, model_id, 360.0, 10, params=few, intensity_g_per_kwh=500.0)
    tags = client.get_model_version("ldm", "1").tags
    # 720 J = 2e-4 kWh, x 1.5 x 500 g/kWh
    assert float(tags["carbon.inference_co2e_g_per_sample.unipc-40"]) == pytest.approx(0.15)
    assert float(tags["carbon.inference_co2e_g_per_sample.unipc-20"]) == pytest.approx(0.075)


def test_sample_of_a_version_leaves_other_models_and_units_alone(client):
    run_id, model_id = train(client, 8.0)
    register(client, "ldm", run_id, model_id)
    other_run_id, other_id = train(client, 8.0)
    register(client, "other", other_run_id, other_id)
    synthesise(client, other_id, 360.0, 10)
    fine_tuning, _ = train(client, 8.0, inputs=[model_id])
    record_run_models(client, fine_tuning)
    assert inference_g(client, "ldm") is None


@pytest.mark.parametrize(
    ("metric", "value"),
    [("carbon/energy_kwh_per_sample", math.inf), ("carbon/pue", 0.5), ("carbon/co2e_kg", math.nan)],
)
def test_sample_of_a_version_is_priced_without_runs_of_impossible_figures(client, metric, value):
    run_id, model_id = train(client, 8.0)
    register(client, "ldm", run_id, model_id)
    synthesise(client, model_id, 360.0, 100)
    broken = synthesise(client, model_id, 720.0, 100)
    client.log_metric(broken, metric, value, timestamp=TIMESTAMP_MS + 1)
    assert record_run_models(client, broken)
    assert inference_g(client, "ldm") == pytest.approx(0.0375)


def test_sample_of_a_copied_version_costs_as_much(client):
    run_id, model_id = train(client, 8.0)
    register(client, "ldm", run_id, model_id)
    client.copy_model_version("models:/ldm/1", "copy")
    synthesise(client, model_id, 360.0, 10)
    assert inference_g(client, "copy") == pytest.approx(0.0375)
    assert client.get_model_version("copy", "1").tags["carbon.co2e_kg"] == "3"
