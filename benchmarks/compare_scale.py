"""Compares `compare` with what a user would write, on stores of 1,000 to 100,000 runs.

Run it as ``python -m benchmarks.compare_scale --keep benchmarks/measured/compare_scale.json``;
``--page docs/scale.md`` writes the page from what is kept. Each way runs in a process of its own,
all ways of one store one after another, and all must return the same rows.
"""

import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.compare_scale_page import WAYS, Measured, page
from benchmarks.scale_store import EXPERIMENT, fill

# Of each number of steps: runs, mean and std of the energy, mean per sample, mean CO2e.
Rows = Mapping[str, Sequence[float]]

_ROOT = Path(__file__).parent.parent
_ROUNDING = 1e-9
_PIVOTS = """
WITH figures AS (
  SELECT run_uuid,
    MAX(CASE WHEN key = 'carbon/energy_kwh' THEN value END) AS kwh,
    MAX(CASE WHEN key = 'carbon/energy_kwh_per_sample' THEN value END) AS sample_kwh,
    MAX(CASE WHEN key = 'carbon/energy_kwh_per_sample_std' THEN value END) AS within_kwh,
    MAX(CASE WHEN key = 'carbon/pue' THEN value END) AS pue,
    MAX(CASE WHEN key = 'carbon/intensity_g_per_kwh' THEN value END) AS g_per_kwh,
    MAX(CASE WHEN key = 'carbon/coverage_fraction' THEN value END) AS coverage
  FROM latest_metrics WHERE key LIKE 'carbon/%' GROUP BY run_uuid
), words AS (
  SELECT run_uuid,
    MAX(CASE WHEN key = 'carbon.unit' THEN value END) AS unit,
    MAX(CASE WHEN key = 'carbon.region' THEN value END) AS region,
    MAX(CASE WHEN key = 'carbon.scope' THEN value END) AS scope,
    MAX(CASE WHEN key = 'carbon.period' THEN value END) AS period,
    MAX(CASE WHEN key = 'carbon.intensity_set' THEN value END) AS intensity_set,
    MAX(CASE WHEN key = 'carbon.method.gpu' THEN value END) AS method,
    CAST(MAX(CASE WHEN key = 'carbon.num_windows' THEN value END) AS INTEGER) AS windows,
    CAST(MAX(CASE WHEN key = 'carbon.num_distinct_readings' THEN value END) AS INTEGER) AS readings
  FROM tags WHERE key LIKE 'carbon.%' GROUP BY run_uuid
)
SELECT params.value, COUNT(*), AVG(kwh), AVG(kwh * kwh), AVG(sample_kwh),
  AVG(kwh * pue * g_per_kwh), unit, region, SUM(windows), SUM(readings), AVG(coverage),
  AVG(sample_kwh * sample_kwh), SUM((windows - 1) * within_kwh * within_kwh),
  MIN(method), MAX(method), MIN(period), MAX(period), MIN(intensity_set), MAX(intensity_set)
FROM runs JOIN figures USING (run_uuid) JOIN words USING (run_uuid)
  JOIN params ON params.run_uuid = runs.run_uuid AND params.key = 'steps'
WHERE lifecycle_stage = 'active' AND status = 'FINISHED' AND scope = 'run'
GROUP BY params.value, unit, region
"""


def rows_by_us(uri: str) -> Rows:
    """Returns the rows by the functions of ``mlflow-carbon compare``."""
    from mlflow_carbon.reporting.compare import compare_runs
    from mlflow_carbon.store.access import open_client
    from mlflow_carbon.store.runs import read_runs

    # as the command does
    runs = read_runs(open_client(uri), experiment_names=[EXPERIMENT], group_by=["steps"])
    table = compare_runs(runs, group_by=["steps"]).table.set_index("steps")
    columns = ["num_runs", "energy_kwh_mean", "energy_kwh_std_between", "energy_kwh_per_unit_mean"]
    return {
        str(steps): list(map(float, row))
        for steps, row in table[[*columns, "co2e_g_mean"]].T.items()
    }


def rows_by_search(uri: str) -> Rows:
    """Returns the rows by MLflow's search and pandas."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    runs = mlflow.search_runs(experiment_names=[EXPERIMENT], max_results=10**7)
    runs = runs[(runs["status"] == "FINISHED") & (runs["tags.carbon.scope"] == "run")]
    priced = runs.assign(
        co2e_g=runs["metrics.carbon/energy_kwh"]
        * runs["metrics.carbon/pue"]
        * runs["metrics.carbon/intensity_g_per_kwh"]
    )
    table = priced.groupby(["params.steps", "tags.carbon.unit", "tags.carbon.region"]).agg(
        num_runs=("run_id", "size"),
        mean=("metrics.carbon/energy_kwh", "mean"),
        std=("metrics.carbon/energy_kwh", "std"),
        per_unit=("metrics.carbon/energy_kwh_per_sample", "mean"),
        mass=("co2e_g", "mean"),
    )
    return {str(keys[0]): list(map(float, row)) for keys, row in table.T.items()}


def rows_by_sql(uri: str) -> Rows:
    """Returns the rows by one query, and nothing but the database."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    with engine.connect() as connection:
        found = connection.execute(sqlalchemy.text(_PIVOTS)).fetchall()
    engine.dispose()
    return {
        str(steps): [
            num_runs,
            mean,
            math.sqrt(max(squares - mean * mean, 0.0) * num_runs / (num_runs - 1)),
            per_unit,
            mass,
        ]
        for steps, num_runs, mean, squares, per_unit, mass, *_ in found
    }


_ROWS_BY_WAY: dict[str, Callable[[str], Rows]] = dict(
    zip(WAYS, (rows_by_us, rows_by_search, rows_by_sql), strict=True)
)


def measured_here(way: str, uri: str) -> dict[str, Any]:
    """Returns the rows of a way and its cost in this process, beyond that of all imports."""
    import mlflow_carbon.reporting.compare
    import mlflow_carbon.store.access
    import mlflow_carbon.store.runs  # noqa: F401

    _warm_up()
    base_kib = _resident_kib()
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    rows = _ROWS_BY_WAY[way](uri)
    return {
        "rows": rows,
        "cpu_s": time.process_time() - start_cpu_s,
        "wall_s": time.perf_counter() - start_s,
        "peak_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base_kib) / 1024,
    }


def _warm_up() -> None:
    """Imports what MLflow and pandas import at their first use, with a store of one run."""
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        fill(uri, 8)
        for rows in _ROWS_BY_WAY.values():
            rows(uri)


def _resident_kib() -> int:
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(text.partition("VmRSS:")[2].split()[0])


def measured(way: str, uri: str, num_runs: int) -> tuple[Measured, Rows]:
    """Returns the cost and rows of a way in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.compare_scale", "--way", way, "--uri", uri],
        cwd=_ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(f"{way} failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    rows = found.pop("rows")
    return Measured(way=way, num_runs=num_runs, **found), rows


def check_equal(rows: Rows, other: Rows, way: str) -> None:
    """Refuses a way that returns other rows.

    Raises:
        ClickException: a row is missing or differs by more than rounding.
    """
    same = rows.keys() == other.keys() and all(
        math.isclose(value, second, rel_tol=_ROUNDING * 1000)
        for steps in rows
        for value, second in zip(rows[steps], other[steps], strict=True)
    )
    if not same:
        raise click.ClickException(f"{way} returns other rows: {other}, not {rows}")


def measured_on_server(uri: str, count: int) -> list[Measured]:
    """Fills an empty database of a server, and measures every way."""
    fill(uri, count)
    found = []
    expected: Rows | None = None
    for way in WAYS:
        one, rows = measured(way, uri, count)
        expected = rows if expected is None else expected
        check_equal(expected, rows, way)
        found.append(one)
        click.echo(one, err=True)
    return found


def all_measured(counts: Sequence[int], folder: Path) -> list[Measured]:
    """Fills a store of each count, or takes the one that is there, and measures every way."""
    found = []
    for count in counts:
        path = folder / f"{count}.db"
        if not path.exists():
            fill(f"sqlite:///{path}", count)
        expected: Rows | None = None
        for way in WAYS:
            one, rows = measured(way, f"sqlite:///{path}", count)
            expected = rows if expected is None else expected
            check_equal(expected, rows, way)
            found.append(one)
            click.echo(one, err=True)
    return found


@click.command()
@click.option("--way", type=click.Choice(WAYS), help="Measure this way here; needs --uri.")
@click.option("--uri", help="Store for --way.")
@click.option("--num-runs", type=int, multiple=True, default=(1000, 10_000, 100_000))
@click.option("--server", help="Empty database of PostgreSQL: adds its figures to --keep.")
@click.option("--folder", type=click.Path(path_type=Path), help="Keeps the stores; else temporary.")
@click.option("--keep", type=click.Path(path_type=Path), help="JSON to write, or read for --page.")
@click.option("--page", "page_path", type=click.Path(path_type=Path), help="Page to write.")
def main(
    way: str | None,
    uri: str | None,
    num_runs: tuple[int, ...],
    server: str | None,
    folder: Path | None,
    keep: Path | None,
    page_path: Path | None,
) -> None:
    """Measures `compare` beside MLflow's search and raw SQL."""
    if way is not None and uri is not None:
        click.echo(json.dumps(measured_here(way, uri)))
        return
    if page_path is not None and keep is not None:
        page_path.write_text(page(json.loads(keep.read_text())), encoding="utf-8")
        return
    if server is not None:
        found = measured_on_server(server, num_runs[0])
    else:
        with tempfile.TemporaryDirectory() as temporary:
            found = all_measured(num_runs, folder or Path(temporary))
    record: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} CPU cores, Python {platform.python_version()}",
        "load": round(os.getloadavg()[0], 1),
        "measured": [one._asdict() for one in found],
    }
    if server is not None and keep is not None:
        record = json.loads(keep.read_text(encoding="utf-8")) | {"postgres": record}
    if keep is not None:
        keep.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    click.echo(page(record))


if __name__ == "__main__":
    main()
