"""The emissions of one sample of a model, from the metered runs that used the model."""

import re
from collections import defaultdict
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
    """Returns what a sample of a model emits in each way of making it, the most used way first.

    A way's figure is the mean energy of a sample over all runs that used the model so, times PUE
    and intensity. Where the runs' factors differ, the newest run's are used: regions are never
    averaged. A run with impossible figures is left out.
    """
    samples = _Samples()
    for run in _runs_that_used(client, model_id):
        samples.add(run)
    return samples.costs()


def sample_costs_by_model(client: MlflowClient) -> dict[str, list[SampleCost]]:
    """Returns ``sample_costs`` of every logged model that has any, by its id, in one pass."""
    by_model: defaultdict[str, _Samples] = defaultdict(_Samples)
    for run in _runs_that_used(client):
        for model_id in run.data.tags[keys.TAG_MODEL_INPUT_IDS].split(","):
            by_model[model_id].add(run)
    found = ((model_id, samples.costs()) for model_id, samples in by_model.items())
    return {model_id: costs for model_id, costs in found if costs}


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


@dataclass
class _WaySamples:
    """Samples made in one way."""

    energy_kwh: float = 0.0
    num: float = 0.0
    g_per_kwh: float = 0.0  # of the newest run, with its PUE
    newest_ms: int = -1


class _Samples:
    """Samples of one model, over the runs that made them."""

    def __init__(self) -> None:
        self._by_way: defaultdict[str, _WaySamples] = defaultdict(_WaySamples)

    def add(self, run: Run) -> None:
        """Takes the samples of a run, if it is known what they emitted."""
        footprint = read_footprint(run)
        if footprint is None:
            return
        record = RunRecord.read(run)
        num, per_sample = record.num_units, record.energy_per_unit.get(SAMPLE)
        if not num or per_sample is None:
            return
        samples = self._by_way[_way(run)]
        samples.energy_kwh += per_sample.energy_kwh * num
        samples.num += num
        start_ms = run.info.start_time or 0
        if start_ms >= samples.newest_ms:
            samples.newest_ms = start_ms
            samples.g_per_kwh = co2e_g(
                1.0, pue=footprint.pue, intensity_g_per_kwh=footprint.intensity_g_per_kwh
            )

    def costs(self) -> list[SampleCost]:
        """Returns the cost of a sample in each way, the most used way first."""
        costs = [
            SampleCost(way, samples.energy_kwh * samples.g_per_kwh / samples.num, samples.num)
            for way, samples in self._by_way.items()
        ]
        return sorted(costs, key=lambda cost: -cost.num_samples)[:MAX_WAYS]


def _way(run: Run) -> str:
    """Returns the sampler and the steps of a run, in characters that a tag's key may have."""
    named = [run.data.params.get(name, "") for name in ("sampler", "steps")]
    return re.sub(r"[^\w.-]", "_", "-".join(filter(None, named)))[:100]


def _runs_that_used(client: MlflowClient, model_id: str = "") -> Iterator[Run]:
    """Yields the metered runs that used a model, or any; for a parent run, its children."""
    return each_run(
        client,
        [experiment.experiment_id for experiment in all_experiments(client)],
        f"tags.`{keys.TAG_MODEL_INPUT_IDS}` LIKE '%{model_id}%' "
        f"AND tags.`{keys.TAG_SCOPE}` = '{keys.SCOPE_RUN}'",
    )
