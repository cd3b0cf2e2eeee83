"""Finished metered runs of a tracking store, as one tidy frame."""

import difflib
import logging
import math
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, SourceType
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2
from mlflow.protos.databricks_pb2 import ErrorCode
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_TYPE

from mlflow_carbon.accounting.emissions import MAX_PUE, MIN_PUE
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.figures import MAX_AMOUNT, MAX_SHOWN
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.totals import Total
from mlflow_carbon.errors import (
    BadRecordError,
    InvalidInputError,
    NoRunsError,
    TrackingStoreError,
)
from mlflow_carbon.redaction import reason_of
from mlflow_carbon.store.access import PERMISSION_DENIED, place_of, store_errors
from mlflow_carbon.store.listing import all_experiments, all_runs
from mlflow_carbon.store.run_records import read_record

_logger = logging.getLogger("mlflow.carbon")

INVALID_PARAMETER_VALUE = ErrorCode.Name(databricks_pb2.INVALID_PARAMETER_VALUE)
PARAM_COLUMN_PREFIX = "params."
TAG_COLUMN_PREFIX = "tags."

_TAG_BY_COLUMN = {
    "parent_run_id": MLFLOW_PARENT_RUN_ID,
    "region": keys.TAG_REGION,
    "period": keys.TAG_PERIOD,
    "intensity_set": keys.TAG_INTENSITY_SET,
    "intensity_basis": keys.TAG_INTENSITY_BASIS,
    "unit": keys.TAG_UNIT,
    "attribution": keys.TAG_ATTRIBUTION,
}

TEXT_COLUMNS = ("run_id", "run_name", "experiment", "scope", "methods", *_TAG_BY_COLUMN)
NUMBER_COLUMNS = (
    "energy_kwh",
    "duration_s",
    "co2e_g",
    "coverage_fraction",
    "pue",
    "intensity_g_per_kwh",
    "num_units",
    "num_windows",
    "num_distinct_readings",
    "energy_kwh_per_unit",
    "energy_kwh_per_unit_std_within",
)

_METERED = f"tags.`{keys.TAG_SCHEMA}` LIKE '%'"
_METHOD_TAG_PREFIX = keys.method_tag("")
_NUM_FAULTS_TOLD = 5

Cell = str | float | None


INCLUDED = {"failed": ("FAILED", "KILLED"), "running": ("RUNNING", "SCHEDULED")}
PARTIAL = "partial"  # unfinished runs of any status, as a process that was killed leaves RUNNING


def read_runs(
    client: MlflowClient,
    *,
    experiment_names: Sequence[str],
    include: Collection[str] = (),
    filter_string: str = "",
) -> pd.DataFrame:
    """Reads the finished metered runs of experiments, one row each.

    Columns: ``TEXT_COLUMNS``, ``NUMBER_COLUMNS`` (kWh, s, g as their names say; NaN where the
    run has no such value), and every parameter and tag as ``params.<name>``, ``tags.<name>``.
    ``scope`` is ``parent`` for a run whose energy contains that of metered children, whether the
    run is tagged so or only its children name it.

    A run with an impossible figure (infinite energy, a PUE below 1) is left out, and named.

    Args:
        client: of the store.
        experiment_names: where to look; none looks everywhere.
        include: ``failed``, ``running`` or ``partial`` (both): unfinished runs too, without a total
            by the sum of their windows as a lower bound of their energy.
        filter_string: what the runs must fit, in MLflow's syntax.

    Raises:
        InvalidInputError: MLflow cannot read the filter, or ``include`` names something else.
        TrackingStoreError: an experiment does not exist, or the store cannot be read.
        NoRunsError: no metered run of these experiments is finished, or none can be read.
    """
    statuses = _included_statuses(include)
    with store_errors(client):
        experiments = (
            _readable_experiments(client, experiment_names)
            if experiment_names
            else all_experiments(client)
        )
        names_by_id = {item.experiment_id: item.name for item in experiments}
        runs = _filtered_runs(client, list(names_by_id), filter_string)
    finished = [run for run in runs if run.info.status == "FINISHED"]
    records, faults = _records(finished)
    if statuses:
        unfinished = [run for run in runs if run.info.status in statuses]
        with store_errors(client):
            partial, partial_faults = _partial_records(client, unfinished)
        faults += partial_faults
        records |= partial
        finished += [run for run in unfinished if run.info.run_id in partial]
        num_partial = sum(record.is_partial for record in partial.values())
        if num_partial:
            _logger.warning(
                "%d of %d runs in the comparison are partial: their energy is a lower bound.",
                num_partial,
                len(finished),
            )
    num_unfinished = len(runs) - len(finished)
    listed = ", ".join(repr(name) for name in names_by_id.values())
    if len(names_by_id) > _NUM_FAULTS_TOLD:
        listed = f"any of {len(names_by_id)}"
    if not finished:
        raise NoRunsError(
            f"No finished metered run in experiment {listed} "
            f"({num_unfinished} metered but not finished). "
            "Meter runs with mlflow_carbon.track(), or pass another --experiment."
        )
    if not records:
        raise NoRunsError(f"No metered run in experiment {listed} can be read: {told(faults)}")
    if num_unfinished:
        _logger.warning(
            "Left out %d of %d metered runs in %s: not finished.", num_unfinished, len(runs), listed
        )
    if faults:
        _logger.warning("Left out %s", told(faults))
    # A failed child is still inside its parent's energy, so unfinished children count here.
    parent_run_ids = {run.data.tags.get(MLFLOW_PARENT_RUN_ID) for run in runs}
    rows = [
        _row(
            run,
            records[run.info.run_id],
            experiment_name=names_by_id[run.info.experiment_id],
            parent_run_ids=parent_run_ids,
        )
        for run in finished
        if run.info.run_id in records
    ]
    return pd.DataFrame(rows).astype(dict.fromkeys(NUMBER_COLUMNS, "float64"))


def _included_statuses(include: Collection[str]) -> set[str]:
    """Returns the statuses of the unfinished runs to include."""
    unknown = [name for name in include if name not in (*INCLUDED, PARTIAL)]
    if unknown:
        raise InvalidInputError(
            f"include is {unknown[0]!r}; give {', '.join(INCLUDED)} or {PARTIAL}.",
            arguments=["include"],
        )
    names = INCLUDED if PARTIAL in include else include
    return {status for name in names for status in INCLUDED[name]}


def _filtered_runs(
    client: MlflowClient, experiment_ids: Sequence[str], filter_string: str
) -> list[Run]:
    """Returns the metered runs that fit the user's filter, too."""
    try:
        return all_runs(
            client, experiment_ids, " AND ".join(filter(None, [_METERED, filter_string]))
        )
    except MlflowException as error:
        if not filter_string or error.error_code != INVALID_PARAMETER_VALUE:
            raise
        raise InvalidInputError(
            f"filter is {filter_string!r}, which MLflow cannot read: {reason_of(error)}",
            arguments=["filter"],
        ) from error


def _records(runs: Sequence[Run]) -> tuple[dict[str, RunRecord], list[str]]:
    """Returns the record of each readable run, by its id, and a reason for each other run."""
    records: dict[str, RunRecord] = {}
    faults = []
    for run in runs:
        try:
            records[run.info.run_id] = RunRecord.read(run)
        except BadRecordError as error:
            faults.append(error.reason)
    return records, faults


def _partial_records(
    client: MlflowClient, runs: Sequence[Run]
) -> tuple[dict[str, RunRecord], list[str]]:
    """Returns the records of unfinished runs, by id, and a reason for each unreadable run."""
    records: dict[str, RunRecord] = {}
    faults = []
    for run in runs:
        try:
            record = read_record(client, run, has_components=False).or_lower_bound()
        except BadRecordError as error:
            faults.append(error.reason)
            continue
        if record.total is not None and record.total.energy_kwh is not None:
            records[run.info.run_id] = record
    return records, faults


def fault_of_tags(
    tags: Mapping[str, str], number_tags: Iterable[str], *, pue_tag: str | None = None
) -> str | None:
    """Returns the first model tag with no number or an impossible one; ``None`` if all are fine."""
    for tag in number_tags:
        value = number(tags, tag)
        lowest, highest = (MIN_PUE, MAX_PUE) if tag == pue_tag else (0.0, MAX_AMOUNT)
        if value is not None and not lowest <= value <= highest:  # true for NaN too
            return f"{tag} is {tags[tag]!r:.{MAX_SHOWN}}"
    return None


def told(faults: Sequence[str]) -> str:
    """Lists the first few faults, and the number of further ones."""
    rest = len(faults) - _NUM_FAULTS_TOLD
    more = [f"and {rest} more"] if rest > 0 else []
    return "; ".join([*faults[:_NUM_FAULTS_TOLD], *more]) + "."


def visibility_notice(client: MlflowClient, num_runs: int) -> str | None:
    """Returns a notice of how many runs a server showed this user; ``None`` without a server."""
    if not client.tracking_uri.startswith(("http://", "https://")):
        return None
    runs_word = "run" if num_runs == 1 else "runs"
    return f"The server let you see {num_runs} finished metered {runs_word} of these experiments."


def _readable_experiments(client: MlflowClient, names: Sequence[str]) -> list[Experiment]:
    """Returns the experiments, without those that the user may not read.

    Raises:
        TrackingStoreError: an experiment does not exist, or the user may read none of them.
    """
    found, forbidden = [], []
    for name in names:
        try:
            found.append(find_experiment(client, name))
        except MlflowException as error:
            if error.error_code != PERMISSION_DENIED:
                raise
            forbidden.append(repr(name))
    if not found:
        raise TrackingStoreError(
            f"You may not read experiment {', '.join(forbidden)} in "
            f"{place_of(client)}. Ask for the permission READ, or pass another "
            "--experiment."
        )
    if forbidden:
        _logger.warning("Left out experiment %s: you may not read it.", ", ".join(forbidden))
    return found


def find_experiment(client: MlflowClient, name: str) -> Experiment:
    """Returns the active experiment of a name.

    Raises:
        TrackingStoreError: there is no such experiment; the message has the nearest names.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is not None and experiment.lifecycle_stage == "active":
        return experiment
    names = [item.name for item in all_experiments(client)]
    nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
    raise TrackingStoreError(
        f"No experiment {name!r} in {place_of(client)}. "
        f"Nearest: {', '.join(repr(near) for near in nearest)}. Pass --experiment."
    )


def _row(
    run: Run, record: RunRecord, *, experiment_name: str, parent_run_ids: set[str | None]
) -> dict[str, Cell]:
    tags = run.data.tags
    is_tagged_parent = tags.get(keys.TAG_SCOPE) == keys.SCOPE_PARENT
    is_parent = is_tagged_parent or run.info.run_id in parent_run_ids
    row: dict[str, Cell] = {
        "run_id": run.info.run_id,
        "run_name": run.info.run_name,
        "experiment": experiment_name,
        "scope": keys.SCOPE_PARENT if is_parent else keys.SCOPE_RUN,
        "methods": methods(tags),
    }
    row |= {column: tags.get(tag) for column, tag in _TAG_BY_COLUMN.items()}
    row |= _numbers(record)
    is_project = tags.get(MLFLOW_SOURCE_TYPE) == SourceType.to_string(SourceType.PROJECT)
    for name, value in run.data.params.items():
        row[PARAM_COLUMN_PREFIX + name] = unquoted(value) if is_project else value
    return row | {TAG_COLUMN_PREFIX + name: value for name, value in tags.items()}


def _numbers(record: RunRecord) -> dict[str, float | None]:
    """Returns a run's values of ``NUMBER_COLUMNS``."""
    total = record.total or Total(None)
    per_unit = record.energy_per_unit.get(record.unit or "")
    return {
        "energy_kwh": total.energy_kwh,
        "duration_s": total.duration_s,
        "co2e_g": record.co2e_g,
        "coverage_fraction": total.coverage_fraction,
        "pue": record.pue,
        "intensity_g_per_kwh": None if record.intensity is None else record.intensity.g_per_kwh,
        "num_units": record.num_units,
        "num_windows": record.num_windows,
        "num_distinct_readings": record.num_distinct_readings,
        "energy_kwh_per_unit": None if per_unit is None else per_unit.energy_kwh,
        "energy_kwh_per_unit_std_within": None if per_unit is None else per_unit.std_kwh,
    }


def methods(tags: Mapping[str, str]) -> str:
    """Names the method that measured each component's energy: ``cpu=tdp,gpu=sampled``."""
    found = {
        key.removeprefix(_METHOD_TAG_PREFIX): value
        for key, value in tags.items()
        if key.startswith(_METHOD_TAG_PREFIX)
    }
    return ",".join(f"{component}={found[component]}" for component in sorted(found))


def unquoted(value: str) -> str:
    """Removes the shell's quotes, with which ``mlflow run`` logs a parameter."""
    if not value.startswith("'"):
        return value
    try:
        words = shlex.split(value)
    except ValueError:
        return value
    return words[0] if len(words) == 1 else value


def number(tags: Mapping[str, str], tag: str) -> float | None:
    """Returns the number in a tag; ``None`` without such a tag, NaN if the tag has no number."""
    text = tags.get(tag)
    try:
        return None if text is None else float(text)
    except ValueError:
        return math.nan
