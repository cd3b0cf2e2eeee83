"""The ways to read the metered runs of a store: its tables, or MLflow's search."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2
from mlflow.protos.databricks_pb2 import ErrorCode

from mlflow_carbon.contract import keys
from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.redaction import reason_of
from mlflow_carbon.store.listing import each_run
from mlflow_carbon.store.reflected import reads_database, reflected_runs
from mlflow_carbon.store.stored_runs import Progress, Scope, StoredRun, Wanted

INVALID_PARAMETER_VALUE = ErrorCode.Name(databricks_pb2.INVALID_PARAMETER_VALUE)
METERED = f"tags.`{keys.TAG_SCHEMA}` LIKE '%'"


@dataclass(frozen=True)
class RunSource:
    """The runs of some experiments that are metered, or all.

    Attributes:
        client: of the store.
        scope: which runs.
        filter_string: what the runs must fit, in MLflow's syntax, which only MLflow reads.
        is_direct: whether the tables of a database may be read.
        on_progress: is told how many runs have been read, and of how many where that is known.
    """

    client: MlflowClient
    scope: Scope
    filter_string: str = ""
    is_direct: bool = True
    on_progress: Progress | None = None

    def ways(self, wanted: Wanted) -> Iterator[Callable[[], Iterator[StoredRun]]]:
        """Yields the ways to read the runs, the fastest first, and MLflow's own last."""
        uri = str(self.client.tracking_uri)
        if self.is_direct and not self.filter_string and reads_database(uri):
            yield partial(reflected_runs, uri, self.scope, wanted, self.on_progress)
        yield self.searched

    def searched(self) -> Iterator[StoredRun]:
        """Yields the runs as MLflow's search finds them.

        Raises:
            InvalidInputError: MLflow cannot read the filter.
            Exception: whatever the store raises.
        """
        scope = self.scope
        since = "" if scope.since_ms is None else f"attributes.start_time >= {scope.since_ms}"
        metered = "" if scope.has_unmetered else METERED
        asked = " AND ".join(filter(None, [metered, since, self.filter_string]))
        try:
            for num_read, run in enumerate(
                each_run(self.client, scope.experiment_ids, asked), start=1
            ):
                yield StoredRun.of(run)
                if self.on_progress is not None:
                    self.on_progress(num_read, None)
        except MlflowException as error:
            if not self.filter_string or error.error_code != INVALID_PARAMETER_VALUE:
                raise
            raise InvalidInputError(
                f"filter is {self.filter_string!r}, which MLflow cannot read: {reason_of(error)}",
                arguments=["filter"],
            ) from error
