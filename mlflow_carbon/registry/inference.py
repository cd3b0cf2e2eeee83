"""The emissions of one sample of a model, from the metered runs that used the model."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from mlflow import MlflowClient
from mlflow.entities import Run

from mlflow_carbon.accounting.emissions import co2e_g
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.registry.footprints import read_footprint
from mlflow_carbon.store.access import write_twice_if_raced
from mlflow_carbon.store.listing import all_experiments, each_run
from mlflow_carbon.store.stored_runs import RESOLVED_PREFIX

SAMPLE = "sample"
MAX_WAYS = 20  # that a model's tags tell apart


@dataclass(frozen=True)
class SampleCost:
    """The samples that runs made in one way, and what one of them emitted.

    Attributes:
        way: sampler and denoising steps, ``unipc-50``; empty where runs name neither.
        co2e_g: of one sample.
        num_samples: that the runs made.
    """

    way: str
    co2e_g: float
    num_samples: float


def note_used_models(client: MlflowClient, run: Run) -> list[str]:
    """Tags a run with the ids of the logged models that it used, and returns the ids.

    Models can then be matched to their runs. Only runs that count samples are tagged, as only
    these give the emissions of a sample.
    """
    if run.data.tags.get(keys.TAG_UNIT) != SAMPLE or not run.inputs:
        return []
    model_ids = sorted({item.model_id for item in run.inputs.model_inputs})
    text = ",".join(model_ids)
    if text and run.data.tags.get(keys.TAG_MODEL_INPUT_IDS) != text:
        write_twice_if_raced(
            partial(client.set_tag, run.info.run_id, keys.TAG_MODEL_INPUT_IDS, text)
        )
    return model_ids


def sample_costs(client: MlflowClient, model_id: str) -> list[SampleCost]:
    """Returns the CO2e of a model's sample in each way of making it, the most used way first.

    A way's figure is the mean energy of a sample over all runs that used the model so, times PUE
    and intensity. Where the runs' factors differ, those of the newest run of any way are used for
    all: regions are never averaged, and ways stand side by side. A run with impossible figures is
    left out.
    """
    return _costs(list(_measured(_runs_that_used(client, model_id))))


def sample_costs_by_model(client: MlflowClient) -> dict[str, list[SampleCost]]:
    """Returns ``sample_costs`` of every logged model that was used, by its id, in one pass."""
    by_model: dict[str, list[_Samples]] = {}
    for run in _runs_that_used(client):
        for samples in _measured([run]):
            for model_id in run.data.tags[keys.TAG_MODEL_INPUT_IDS].split(","):
                by_model.setdefault(model_id, []).append(samples)
    return {model_id: _costs(samples) for model_id, samples in by_model.items()}


def _costs(found: list["_Samples"]) -> list[SampleCost]:
    """Returns the cost of a sample in each way, the most used way first."""
    by_age = sorted(found, key=lambda each: each.start_ms)
    samples_by_way: dict[str, list[_Samples]] = {}
    for samples in by_age:
        samples_by_way.setdefault(samples.way, []).append(samples)
    costs = [
        _cost(way, samples, g_per_kwh=by_age[-1].g_per_kwh)
        for way, samples in samples_by_way.items()
    ]
    return sorted(costs, key=lambda cost: -cost.num_samples)[:MAX_WAYS]


def inference_tags(costs: Iterable[SampleCost]) -> dict[str, str]:
    """Returns a model's tags of its samples: of the most used way, and of each way by its name."""
    tags: dict[str, str] = {}
    for cost in costs:
        text = f"{cost.co2e_g:.6g}"
        if not tags:
            tags[keys.TAG_MODEL_INFERENCE_CO2E_G_PER_SAMPLE] = text
            if cost.way:
                tags[keys.TAG_MODEL_INFERENCE_WAY] = cost.way
        if cost.way:
            tags[keys.inference_tag(cost.way)] = text
    return tags


def is_inference_tag(key: str) -> bool:
    """Returns whether a tag of a model is one of its samples."""
    return key in (
        keys.TAG_MODEL_INFERENCE_CO2E_G_PER_SAMPLE,
        keys.TAG_MODEL_INFERENCE_WAY,
    ) or key.startswith(keys.inference_tag(""))


@dataclass(frozen=True)
class _Samples:
    """The samples of one run; ``g_per_kwh`` includes the PUE."""

    start_ms: int
    way: str
    num_samples: float
    energy_kwh_per_sample: float
    g_per_kwh: float


def _measured(runs: Iterable[Run]) -> Iterator[_Samples]:
    for run in runs:
        footprint = read_footprint(run)
        if footprint is None:
            continue
        record = RunRecord.read(run)
        per_sample = record.energy_per_unit.get(SAMPLE)
        if not record.num_units or per_sample is None:
            continue
        g_per_kwh = co2e_g(
            1.0, pue=footprint.pue, intensity_g_per_kwh=footprint.intensity_g_per_kwh
        )
        start_ms, kwh = run.info.start_time or 0, per_sample.energy_kwh
        yield _Samples(start_ms, _way(run), record.num_units, kwh, g_per_kwh)


def _cost(way: str, samples: list[_Samples], *, g_per_kwh: float) -> SampleCost:
    """Returns the cost of a sample at one price of a kWh of IT energy, in g."""
    num_samples = sum(each.num_samples for each in samples)
    energy_kwh = sum(each.energy_kwh_per_sample * each.num_samples for each in samples)
    return SampleCost(way, energy_kwh / num_samples * g_per_kwh, num_samples)


def _way(run: Run) -> str:
    """Returns the sampler and the steps of a run, in characters that a tag's key may have."""
    params = run.data.params
    named = [
        params.get(f"{RESOLVED_PREFIX}{name}", params.get(name, ""))
        for name in ("sampler", "steps")
    ]
    return re.sub(r"[^\w.-]", "_", "-".join(filter(None, named)))[:100]


def _runs_that_used(client: MlflowClient, model_id: str = "") -> Iterator[Run]:
    """Yields the metered runs that used a model, or any model; for a parent run, its children."""
    return each_run(
        client,
        [experiment.experiment_id for experiment in all_experiments(client)],
        f"tags.`{keys.TAG_MODEL_INPUT_IDS}` LIKE '%{model_id}%' "
        f"AND tags.`{keys.TAG_SCOPE}` = '{keys.SCOPE_RUN}'",
    )
