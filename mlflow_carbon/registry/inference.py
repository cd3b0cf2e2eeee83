"""The emissions of one sample of a model, from the metered runs that used the model."""

from collections import defaultdict
from collections.abc import Iterator
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


def sample_co2e_g(client: MlflowClient, model_id: str) -> float | None:
    """Returns the emissions of one sample of a model in g; ``None`` if no run measured any.

    This is the mean energy of a sample over all runs that used the model, times PUE and
    intensity. Where the runs' factors differ, the newest run's are used: regions are never
    averaged. A run with impossible figures is left out.
    """
    samples = _Samples()
    for run in _runs_that_used(client, model_id):
        samples.add(run)
    return samples.co2e_g


def sample_co2e_g_by_model(client: MlflowClient) -> dict[str, float]:
    """Returns ``sample_co2e_g`` of every logged model that has any, by its id, in one pass."""
    by_model: defaultdict[str, _Samples] = defaultdict(_Samples)
    for run in _runs_that_used(client):
        for model_id in run.data.tags[keys.TAG_MODEL_INPUT_IDS].split(","):
            by_model[model_id].add(run)
    found = ((model_id, samples.co2e_g) for model_id, samples in by_model.items())
    return {model_id: mass_g for model_id, mass_g in found if mass_g is not None}


@dataclass
class _Samples:
    """Samples of one model, over the runs that made them."""

    energy_kwh: float = 0.0
    num: float = 0.0
    g_per_kwh: float = 0.0  # of the newest run
    newest_ms: int = -1

    def add(self, run: Run) -> None:
        """Takes the samples of a run, if it is known what they emitted."""
        footprint = read_footprint(run)
        if footprint is None:
            return
        record = RunRecord.read(run)
        num, per_sample = record.num_units, record.energy_per_unit.get(SAMPLE)
        if not num or per_sample is None:
            return
        self.energy_kwh += per_sample.energy_kwh * num
        self.num += num
        start_ms = run.info.start_time or 0
        if start_ms >= self.newest_ms:
            self.newest_ms = start_ms
            self.g_per_kwh = co2e_g(
                1.0, pue=footprint.pue, intensity_g_per_kwh=footprint.intensity_g_per_kwh
            )

    @property
    def co2e_g(self) -> float | None:
        """Emissions of one sample in g."""
        return self.energy_kwh * self.g_per_kwh / self.num if self.num else None


def _runs_that_used(client: MlflowClient, model_id: str = "") -> Iterator[Run]:
    """Yields the metered runs that used a model, or any; for a parent run, its children."""
    return each_run(
        client,
        [experiment.experiment_id for experiment in all_experiments(client)],
        f"tags.`{keys.TAG_MODEL_INPUT_IDS}` LIKE '%{model_id}%' "
        f"AND tags.`{keys.TAG_SCOPE}` = '{keys.SCOPE_RUN}'",
    )
