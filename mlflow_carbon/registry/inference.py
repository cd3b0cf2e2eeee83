"""The emissions of one sample of a model, from the metered runs that used the model."""

from functools import partial

from mlflow import MlflowClient
from mlflow.entities import Run

from mlflow_carbon.accounting.emissions import co2e_g
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.registry.footprints import read_footprint
from mlflow_carbon.store.access import write_twice_if_raced
from mlflow_carbon.store.listing import all_experiments, all_runs

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
    energy_kwh = num_samples = g_per_kwh = 0.0
    for run in _runs_that_used(client, model_id):  # oldest first
        footprint = read_footprint(run)
        if footprint is None:
            continue
        record = RunRecord.read(run)
        samples, per_sample = record.num_units, record.energy_per_unit.get(SAMPLE)
        if not samples or per_sample is None:
            continue
        energy_kwh += per_sample.energy_kwh * samples
        num_samples += samples
        g_per_kwh = co2e_g(
            1.0, pue=footprint.pue, intensity_g_per_kwh=footprint.intensity_g_per_kwh
        )
    return energy_kwh * g_per_kwh / num_samples if num_samples else None


def _runs_that_used(client: MlflowClient, model_id: str) -> list[Run]:
    """Returns the metered runs that used a model; for a parent run, its children instead."""
    return all_runs(
        client,
        [experiment.experiment_id for experiment in all_experiments(client)],
        f"tags.`{keys.TAG_MODEL_INPUT_IDS}` LIKE '%{model_id}%' "
        f"AND tags.`{keys.TAG_SCOPE}` = '{keys.SCOPE_RUN}'",
    )
