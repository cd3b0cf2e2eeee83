"""The page of ``benchmarks.compare_scale``: what it kept as Markdown, apart from measuring."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.scale_store import NUM_METRICS, NUM_PARAMS, NUM_TAGS

TAG_ALL, TAG_AGAIN = "tag-models --all", "tag-models --all, once more"
OURS, SEARCH, SQL = WAYS = ("compare", "search_runs + groupby", "raw SQL")

_HEAD = """\
# At any scale

Written by `python -m benchmarks.compare_scale --keep benchmarks/measured/compare_scale.json \
--page docs/scale.md` from the figures kept there, measured on {date} on {machine}, load {load}, \
once per store and way, one way after another, each in a process of its own. A run has \
{num_metrics} metrics, {num_params} parameters and {num_tags} tags, on sqlite. All ways \
return the same rows: mean and spread of energy and CO2e by number of steps. CPU seconds are what \
to go by; wall time contains what else the machine did. Memory \
is the peak above that after all imports and one small store.
"""
_FOOT = """\
`compare` and `total` read MLflow's own tables where the store is a database of this MLflow \
(sqlite in a file, or PostgreSQL), read-only and a thousand runs at a time. The database joins a \
run's parameters into one text, and its tags into another without those that are a run's own, so \
that runs of a kind have the same text, which is parsed once. All parameters and all tags of the \
user are read, as `compare` names those that move the energy; of the tags that programs write only \
those of the contract and those that are grouped by. A table or column that it does not \
know, another schema, any error of the database, a server or `mlflow-skinny` sends it to MLflow's \
search, which gives the same rows; a test holds both equal on random stores.
"""


class Measured(NamedTuple):
    """The cost of one way on one store, beyond that of imports."""

    way: str
    num_runs: int
    cpu_s: float
    wall_s: float
    peak_mb: float


def page(record: Mapping[str, Any]) -> str:
    """Returns the page: a table of costs, and one of ratios."""
    found = [Measured(**one) for one in record["measured"]]
    head = _HEAD.format(
        date=record["date"],
        machine=record["machine"],
        load=record["load"],
        num_metrics=NUM_METRICS,
        num_params=NUM_PARAMS,
        num_tags=NUM_TAGS,
    )
    lines = [head, *cost_lines(found), "", *ratio_lines(found), ""]
    if "postgres" in record:
        lines += postgres_lines(record["postgres"])
    if "commands" in record:
        lines += command_lines(record["commands"])
    return "\n".join([*lines, _FOOT])


def postgres_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Yields what the ways cost on PostgreSQL."""
    found = [Measured(**one) for one in record["measured"]]
    yield "## On PostgreSQL"
    yield ""
    yield (
        "The same runs, ways and rows on a PostgreSQL of this machine "
        f"(`--server URI`, {record['date']}, load {record['load']}). CPU is that of the client "
        "alone: wall time holds the server's work, and what else the machine did."
    )
    yield ""
    yield from cost_lines(found)
    yield ""


def command_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Yields what the commands cost that read a registry, a run, or all of them."""
    yield "## Other commands"
    yield ""
    yield (
        f"Beside {record['num_runs']:,} runs and {record['num_models']:,} registered models on "
        "sqlite, and in brackets beside ten of each, which is what starting costs. Each runs as a "
        "user starts it (`python -m benchmarks.command_scale`, "
        f"{record['date']}, {record['machine']}, load {record['load']}, once"
        f"{', stores in memory' if record.get('is_in_memory') else ''})."
    )
    yield ""
    yield "| command | CPU, s | wall, s | peak memory, MB |"
    yield "|---|--:|--:|--:|"
    for one in record["measured"]:
        cells = [
            f"{one[name]:{form}} ({one[f'few_{name}']:{form}})"
            for name, form in (("cpu_s", ".3g"), ("wall_s", ".3g"), ("peak_mb", ".0f"))
        ]
        yield f"| `{one['command']}` | {' | '.join(cells)} |"
    yield ""
    ms_by_command = {
        one["command"]: 1000 * (one["cpu_s"] - one["few_cpu_s"]) / record["num_models"]
        for one in record["measured"]
    }
    if TAG_ALL in ms_by_command:
        yield (
            f"A model costs `{TAG_ALL}` {ms_by_command[TAG_ALL]:.0f} ms of CPU time where all its "
            f"tags are new, and {ms_by_command[TAG_AGAIN]:.0f} ms where none changes: MLflow sets "
            "tags one by one, a transaction each."
        )
        yield ""


def cost_lines(found: Sequence[Measured]) -> Iterator[str]:
    """Yields the table of costs."""
    yield "| runs | way | CPU, s | wall, s | peak memory, MB |"
    yield "|--:|---|--:|--:|--:|"
    for one in found:
        yield (
            f"| {one.num_runs:,} | {one.way} | {one.cpu_s:.3g} | {one.wall_s:.3g} | "
            f"{one.peak_mb:.0f} |"
        )


def ratio_lines(found: Sequence[Measured]) -> Iterator[str]:
    """Yields how many times faster or slower `compare` is, and how its cost grows."""
    cpu_s = {(one.way, one.num_runs): one.cpu_s for one in found}
    counts = sorted({one.num_runs for one in found})
    yield "| runs | times faster than search_runs | times raw SQL | exponent since the row above |"
    yield "|--:|--:|--:|--:|"
    for position, count in enumerate(counts):
        ours = cpu_s[OURS, count]
        exponent = "-"
        if position:
            before = counts[position - 1]
            growth = math.log(ours / cpu_s[OURS, before]) / math.log(count / before)
            exponent = f"{growth:.2f}"
        yield (
            f"| {count:,} | {cpu_s[SEARCH, count] / ours:.1f} | {ours / cpu_s[SQL, count]:.1f} | "
            f"{exponent} |"
        )
