"""Reads a store's listings to their end, each item once, even while others write to it."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import Experiment, LoggedModel, Run
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.store.entities import PagedList

PAGE_SIZE = 1000  # MLflow's limit for runs and versions
_MAX_LOGGED_MODELS = 100  # some servers refuse more in one page
_MAX_EXPERIMENTS = 500  # in one query, as a database takes a limited number of values

Item = TypeVar("Item")


def every_item(
    ask: Callable[[str | None], PagedList[Item]], key: Callable[[Item], object]
) -> Iterator[Item]:
    """Yields the items of all pages, each once.

    A page begins at a count of items, so an item added meanwhile moves others onto the next page,
    which then repeats them.

    Args:
        ask: returns the page of a token; the first page's token is ``None``.
        key: returns an item's identity.
    """
    seen: set[object] = set()
    token: str | None = None
    while True:
        page = ask(token)
        for item in page:
            if (name := key(item)) not in seen:
                seen.add(name)
                yield item
        token = page.token
        if not token:
            return


def all_experiments(client: MlflowClient) -> list[Experiment]:
    """Returns every active experiment that may be read, the oldest first.

    A new experiment comes last, so it moves no other to another page.
    """
    return list(
        every_item(
            lambda token: client.search_experiments(
                max_results=PAGE_SIZE, order_by=["creation_time ASC"], page_token=token
            ),
            lambda experiment: experiment.experiment_id,
        )
    )


def all_runs(
    client: MlflowClient, experiment_ids: Sequence[str], filter_string: str = ""
) -> list[Run]:
    """Returns every active run of some experiments that fits the filter, the oldest first.

    Runs that start or are deleted meanwhile neither repeat nor hide another run.
    """
    chunks = [
        list(experiment_ids[start : start + _MAX_EXPERIMENTS])
        for start in range(0, len(experiment_ids), _MAX_EXPERIMENTS)
    ]
    found = [run for chunk in chunks for run in _runs_by_start(client, chunk, filter_string)]
    return sorted(found, key=_start_ms) if len(chunks) > 1 else found


def _runs_by_start(
    client: MlflowClient, experiment_ids: list[str], filter_string: str
) -> Iterator[Run]:
    """Yields runs by their start; each query begins at the start of the last run yielded.

    A page token counts runs, so a run deleted meanwhile would hide another. A token is used only
    where more runs started in one millisecond than fit a page.
    """
    seen: set[str] = set()
    since_ms: int | None = None
    token: str | None = None
    while True:
        since = [] if since_ms is None else [f"attributes.start_time >= {since_ms}"]
        page = client.search_runs(
            experiment_ids,
            " AND ".join([*filter(None, [filter_string]), *since]),
            order_by=["attributes.start_time ASC"],
            max_results=PAGE_SIZE,
            page_token=token,
        )
        for run in page:
            if run.info.run_id not in seen:
                seen.add(run.info.run_id)
                yield run
        if not page.token:
            return
        last_ms = page[-1].info.start_time
        has_moved = last_ms is not None and last_ms != since_ms
        since_ms, token = (last_ms, None) if has_moved else (since_ms, page.token)


def newest_runs(
    client: MlflowClient, experiment_ids: Sequence[str], filter_string: str, *, max_runs: int
) -> list[Run]:
    """Returns the ``max_runs`` runs that started last, or fewer, the newest first."""
    found: list[Run] = []
    for start in range(0, len(experiment_ids), _MAX_EXPERIMENTS):
        found += client.search_runs(
            list(experiment_ids[start : start + _MAX_EXPERIMENTS]),
            filter_string,
            order_by=["attributes.start_time DESC"],
            max_results=max_runs,
        )
    return sorted(found, key=_start_ms, reverse=True)[:max_runs]


def all_logged_models(
    client: MlflowClient, experiment_ids: Sequence[str], filter_string: str
) -> list[LoggedModel]:
    """Returns every logged model that fits, the oldest first."""
    return list(
        every_item(
            lambda token: client.search_logged_models(
                list(experiment_ids),
                filter_string,
                max_results=_MAX_LOGGED_MODELS,
                order_by=[{"field_name": "creation_timestamp", "ascending": True}],
                page_token=token,
            ),
            lambda model: model.model_id,
        )
    )


def all_versions(client: MlflowClient, filter_string: str = "") -> list[ModelVersion]:
    """Returns every model version that fits, by name and number."""
    return list(
        every_item(
            lambda token: client.search_model_versions(
                filter_string,
                max_results=PAGE_SIZE,
                order_by=["name ASC", "version_number ASC"],
                page_token=token,
            ),
            lambda version: (version.name, str(version.version)),
        )
    )


def all_registered_models(client: MlflowClient) -> list[RegisteredModel]:
    """Returns every registered model, by name."""
    return list(
        every_item(
            lambda token: client.search_registered_models(max_results=PAGE_SIZE, page_token=token),
            lambda model: model.name,
        )
    )


def _start_ms(run: Run) -> int:
    return run.info.start_time or 0
