"""Reads a store's listings to their end, each item once, even while others write to it."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

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
    found = list(each_run(client, experiment_ids, filter_string))
    return sorted(found, key=_start_ms) if len(experiment_ids) > _MAX_EXPERIMENTS else found


def each_run(
    client: MlflowClient, experiment_ids: Sequence[str], filter_string: str = ""
) -> Iterator[Run]:
    """Yields the runs of ``all_runs``, with no more than two pages of them in memory.

    They come the oldest first, of some hundred experiments after another.
    """
    for start in range(0, len(experiment_ids), _MAX_EXPERIMENTS):
        chunk = list(experiment_ids[start : start + _MAX_EXPERIMENTS])
        yield from _runs_by_start(client, chunk, filter_string)


def _runs_by_start(
    client: MlflowClient, experiment_ids: list[str], filter_string: str
) -> Iterator[Run]:
    """Yields runs by their start; each query begins at the start of the last run yielded.

    A page token counts runs, so a run deleted meanwhile would hide another. A token is used only
    where more runs started in one millisecond than fit a page.

    A server prepares the next page while the runs of this one are used.
    """

    def ask(since_ms: int | None, token: str | None) -> PagedList[Run]:
        since = [] if since_ms is None else [f"attributes.start_time >= {since_ms}"]
        return client.search_runs(
            experiment_ids,
            " AND ".join([*filter(None, [filter_string]), *since]),
            order_by=["attributes.start_time ASC"],
            max_results=PAGE_SIZE,
            page_token=token,
        )

    at_border: set[str] = set()  # ids of the runs that the next page may repeat
    since_ms: int | None = None
    with _ahead(client) as submit:
        waiting: Callable[[], PagedList[Run]] | None = submit(ask, None, None)
        while waiting is not None:
            page = waiting()
            waiting, before = None, at_border
            if page.token:
                last_ms = page[-1].info.start_time
                has_moved = last_ms is not None and last_ms != since_ms
                at_border = {run.info.run_id for run in page if run.info.start_time == last_ms}
                at_border |= set() if has_moved else before
                since_ms, token = (last_ms, None) if has_moved else (since_ms, page.token)
                waiting = submit(ask, since_ms, token)
            yield from (run for run in page if run.info.run_id not in before)


Submit = Callable[..., Callable[[], Any]]  # starts a call, and returns what waits for its result


@contextmanager
def _ahead(client: MlflowClient) -> Iterator[Submit]:
    """Gives a way to start a call whose result is wanted later: of a server, in a thread."""
    if not str(client.tracking_uri).startswith(("http://", "https://")):
        yield partial
        return
    with ThreadPoolExecutor(1, thread_name_prefix="mlflow-carbon-page") as pool:
        yield lambda call, *arguments: pool.submit(call, *arguments).result


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
