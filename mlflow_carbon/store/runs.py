"""Finished metered runs of a tracking store, as one tidy frame."""

import difflib
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, SourceType
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2
from mlflow.protos.databricks_pb2 import ErrorCode
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_TYPE
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.totals import Total
from mlflow_carbon.errors import NoRunsError, TrackingStoreError
from mlflow_carbon.redaction import reason_of, redact

PERMISSION_DENIED = ErrorCode.Name(databricks_pb2.PERMISSION_DENIED)

_logger = logging.getLogger("mlflow.carbon")

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
_PAGE_SIZE = 1000  # MLflow's own default; it truncates there unless paged
_METHOD_TAG_PREFIX = keys.method_tag("")

Cell = str | float | None


def open_client(tracking_uri: str | None = None) -> MlflowClient:
    """Returns a client of a store that exists; reading never creates a database.

    Args:
        tracking_uri: ``None`` takes MLflow's own choice (``MLFLOW_TRACKING_URI``, else
            ``sqlite:///mlflow.db`` in the working folder).

    Raises:
        TrackingStoreError: there is no database at that place, or MLflow refuses the URI.
    """
    uri = tracking_uri or mlflow.get_tracking_uri()
    path = _sqlite_path(uri)
    if path is not None and not path.is_file():
        raise TrackingStoreError(
            f"No tracking store at {redact(uri)}. "
            "Pass --tracking-uri, set MLFLOW_TRACKING_URI, or change to its folder."
        )
    with reading(uri):
        return MlflowClient(tracking_uri=uri)


@contextmanager
def reading(uri: str) -> Iterator[None]:
    """Turns what MLflow and its database raise into one error that the user can act on.

    Raises:
        TrackingStoreError: the block could not read the store.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        raise TrackingStoreError(
            f"The tracking store {redact(uri)} cannot be read: {reason_of(error)} "
            "Check --tracking-uri."
        ) from error


def read_runs(client: MlflowClient, *, experiment_names: Sequence[str]) -> pd.DataFrame:
    """Returns one row a FINISHED metered run of the named experiments.

    Columns: ``TEXT_COLUMNS``, ``NUMBER_COLUMNS`` (kWh, s, g as their names say; NaN where the
    run has no such value), and every parameter and tag as ``params.<name>``, ``tags.<name>``.
    ``scope`` is ``parent`` for a run whose energy contains that of metered children, whether
    it is tagged so or only its children name it.

    Raises:
        TrackingStoreError: an experiment does not exist, or the store cannot be read.
        NoRunsError: no metered run of these experiments is finished.
    """
    with reading(client.tracking_uri):
        experiments = _readable_experiments(client, experiment_names)
        names_by_id = {item.experiment_id: item.name for item in experiments}
        runs = list(_metered_runs(client, list(names_by_id)))
    finished = [run for run in runs if run.info.status == "FINISHED"]
    num_unfinished = len(runs) - len(finished)
    listed = ", ".join(repr(name) for name in names_by_id.values())
    if not finished:
        raise NoRunsError(
            f"No finished metered run in experiment {listed} "
            f"({num_unfinished} metered but not finished). "
            "Meter runs with mlflow_carbon.track(), or pass another --experiment."
        )
    if num_unfinished:
        _logger.warning(
            "Left out %d of %d metered runs in %s: not finished.", num_unfinished, len(runs), listed
        )
    # A child that failed is still inside its parent's energy, so unfinished ones count here.
    parent_run_ids = {run.data.tags.get(MLFLOW_PARENT_RUN_ID) for run in runs}
    rows = [_row(run, names_by_id[run.info.experiment_id], parent_run_ids) for run in finished]
    return pd.DataFrame(rows).astype(dict.fromkeys(NUMBER_COLUMNS, "float64"))


def _metered_runs(client: MlflowClient, experiment_ids: list[str]) -> Iterator[Run]:
    page_token = None
    while True:
        page = client.search_runs(
            experiment_ids, _METERED, max_results=_PAGE_SIZE, page_token=page_token
        )
        yield from page
        page_token = page.token
        if not page_token:
            return


def visibility_notice(client: MlflowClient, num_runs: int) -> str | None:
    """Returns a sentence on how many runs could be seen, where a server decides on that."""
    if not client.tracking_uri.startswith(("http://", "https://")):
        return None
    runs_word = "run" if num_runs == 1 else "runs"
    return f"The server let you see {num_runs} finished metered {runs_word} of these experiments."


def _readable_experiments(client: MlflowClient, names: Sequence[str]) -> list[Experiment]:
    """Returns the experiments, without those that the user may not read.

    Raises:
        TrackingStoreError: one does not exist, or none may be read.
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
            f"{redact(client.tracking_uri)}. Ask for the permission READ, or pass another "
            "--experiment."
        )
    if forbidden:
        _logger.warning("Left out experiment %s: you may not read it.", ", ".join(forbidden))
    return found


def find_experiment(client: MlflowClient, name: str) -> Experiment:
    """Returns the active experiment of that name.

    Raises:
        TrackingStoreError: there is none; offers the nearest names.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is not None and experiment.lifecycle_stage == "active":
        return experiment
    names = [item.name for item in client.search_experiments()]
    nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
    raise TrackingStoreError(
        f"No experiment {name!r} in {redact(client.tracking_uri)}. "
        f"Nearest: {', '.join(repr(near) for near in nearest)}. Pass --experiment."
    )


def _row(run: Run, experiment_name: str, parent_run_ids: set[str | None]) -> dict[str, Cell]:
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
    row |= _numbers(RunRecord.read(run))
    is_project = tags.get(MLFLOW_SOURCE_TYPE) == SourceType.to_string(SourceType.PROJECT)
    for name, value in run.data.params.items():
        row[PARAM_COLUMN_PREFIX + name] = unquoted(value) if is_project else value
    return row | {TAG_COLUMN_PREFIX + name: value for name, value in tags.items()}


def _numbers(record: RunRecord) -> dict[str, float | None]:
    """Returns what stands in ``NUMBER_COLUMNS`` for a run."""
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
    """Returns how each component's energy was obtained: ``cpu=tdp,gpu=sampled``."""
    found = {
        key.removeprefix(_METHOD_TAG_PREFIX): value
        for key, value in tags.items()
        if key.startswith(_METHOD_TAG_PREFIX)
    }
    return ",".join(f"{component}={found[component]}" for component in sorted(found))


def unquoted(value: str) -> str:
    """Returns a parameter as it was typed: ``mlflow run`` logs it quoted for the shell."""
    if not value.startswith("'"):
        return value
    try:
        words = shlex.split(value)
    except ValueError:
        return value
    return words[0] if len(words) == 1 else value


def number(tags: Mapping[str, str], tag: str, place: str) -> float | None:
    """Returns the number in a tag; None where there is no such tag.

    Args:
        tags: of a run or a model.
        tag: the key.
        place: whose tags they are, for the error.

    Raises:
        TrackingStoreError: the tag holds no number.
    """
    text = tags.get(tag)
    try:
        return None if text is None else float(text)
    except ValueError as error:
        raise TrackingStoreError(
            f"Tag {tag} of {place} is {text!r}, not a number. Correct or delete the tag."
        ) from error


def _sqlite_path(uri: str) -> Path | None:
    """Returns the database file that a sqlite URI names; None for any other store."""
    if not uri.startswith("sqlite"):
        return None
    try:
        database = make_url(uri).database
    except ArgumentError:
        return None
    return Path(unquote(database)) if database and database != ":memory:" else None
