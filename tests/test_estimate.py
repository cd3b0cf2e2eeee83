"""Predictions from a probe: what they add up to, and how near they come to a real run."""

import pytest
from mlflow import MlflowClient

from ldm_project.config import EstimateConfig, SynthConfig
from ldm_project.diffusion.flops import cost_of
from ldm_project.diffusion.models import ModelSpec
from ldm_project.resolution import estimate_settings
from ldm_project.runs.estimate import (
    DURATION_S_PER_SAMPLE,
    ENERGY_KWH_PER_SAMPLE,
    MIN_PROBED,
    Prediction,
    Probe,
    predicted,
    prediction_lines,
    probe,
)
from mlflow_carbon.metering.meter import Meter
from tests.fakes.commands import command_of, run_command
from tests.fakes.recorded import recorded

# A busy machine may take this many times longer in one of two measurements.
BAND = 3.0


@pytest.fixture
def meter():
    meter = Meter()
    meter.start()
    yield meter
    meter.stop()


def test_probe_repeats_work_and_counts_it(meter):
    calls = []
    probed = probe(meter, lambda: calls.append(1), probe_s=0.0)
    assert len(calls) == MIN_PROBED
    assert probed.duration_s >= 0


def test_prediction_is_a_decoding_and_each_step_shared_by_the_batch():
    # a batch of 4: decoding 2 s and 3 J, a step 0.5 s and 1 J; 10 steps: 7 s and 13 J
    settings = estimate_settings(EstimateConfig(steps=10, batch_size="4"))
    prediction = predicted(
        ModelSpec(2, (64, 64), "tiny"),
        settings,
        step=Probe(0.5, 1 / 3.6e6),
        decoding=Probe(2.0, 3 / 3.6e6),
    )
    assert prediction.duration_s == pytest.approx(7 / 4)
    assert prediction.energy_kwh == pytest.approx(13 / 4 / 3.6e6)


def test_prediction_without_energy_says_so():
    lines = prediction_lines(Prediction(0.5, 2.0, None), estimate_settings(EstimateConfig()))
    assert any("energy  not measured" in line for line in lines)
    assert "0.25 TFLOP/s" in lines[1]


def test_prediction_is_in_the_units_that_fit():
    settings = estimate_settings(EstimateConfig(region="SE"))
    # 1e-8 kWh = 10 µWh, x 35.82 g/kWh = 0.358 µg
    *_, energy, mass, _ = prediction_lines(Prediction(0.5, 2.0, 1e-8), settings)
    assert energy == "energy  10.0 µWh per sample"
    assert mass == "CO2e    0.358 µg per sample, at SE 35.82 g/kWh (2024, ember)"


@pytest.mark.slow
def test_prediction_lies_near_a_real_run(store):
    shared = {"size": "32", "steps": 100, "batch_size": "4"}
    run_command(EstimateConfig(**shared))
    run_command(SynthConfig(**shared, num_samples="20", iterations=8, vqgan_iterations=8))
    runs = {command_of(run): run for run in MlflowClient().search_runs(["0"])}
    measured = recorded(runs["synth"])["energy_kwh_per_sample"]
    assert 1 / BAND < runs["estimate"].data.metrics[ENERGY_KWH_PER_SAMPLE] / measured < BAND


@pytest.mark.slow
def test_networks_that_nobody_has_trained_can_be_estimated(store):
    lines = run_command(EstimateConfig(size="32", model_size="medium", steps=30))
    metrics = MlflowClient().search_runs(["0"])[0].data.metrics
    expected = cost_of(ModelSpec(2, (32, 32), "medium")).sample_tflop(30)
    assert metrics["ldm/tflop_per_sample"] == pytest.approx(expected)
    assert metrics[DURATION_S_PER_SAMPLE] > 0
    assert any("untrained networks" in line for line in lines)
    assert not MlflowClient().search_registered_models()
