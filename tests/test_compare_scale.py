"""The benchmark of many runs: equal rows by every way, and a page that says no more."""

import json
from pathlib import Path

import pytest
from click import ClickException

from benchmarks.command_scale import COMMANDS, cost_of, fill_registry
from benchmarks.compare_scale import check_equal, rows_by_search, rows_by_sql, rows_by_us
from benchmarks.compare_scale_page import OURS, SEARCH, SQL, Measured, page, ratio_lines
from benchmarks.scale_store import STEP_COUNTS, fill

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_every_way_returns_the_same_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    fill(uri, 40)
    rows = rows_by_us(uri)
    assert sorted(map(int, rows)) == sorted(STEP_COUNTS)
    assert [row[0] for row in rows.values()] == [10] * len(STEP_COUNTS)
    check_equal(rows, rows_by_search(uri), SEARCH)
    check_equal(rows, rows_by_sql(uri), SQL)


@pytest.mark.slow
def test_both_versions_of_the_contract_give_the_same_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uris = [f"sqlite:///{tmp_path}/{version}.db" for version in (1, 2)]
    for version, uri in enumerate(uris, start=1):
        fill(uri, 40, version=version)
    check_equal(rows_by_us(uris[0]), rows_by_us(uris[1]), "version 2")


def test_other_rows_are_refused():
    with pytest.raises(ClickException, match="raw SQL returns other rows"):
        check_equal({"50": [10, 1.0]}, {"50": [10, 1.1]}, SQL)


def test_ratios_and_exponent_are_of_the_cpu_time():
    found = [
        Measured(way, count, cpu_s, 9.0, 1.0)
        for count, costs in ((1000, (1.0, 4.0, 0.5)), (10_000, (10.0, 80.0, 2.0)))
        for way, cpu_s in zip((OURS, SEARCH, SQL), costs, strict=True)
    ]
    # 4 / 1 and 80 / 10; 1 / 0.5 and 10 / 2; log(10) / log(10)
    assert list(ratio_lines(found))[2:] == [
        "| 1,000 | 4.0 | 2.0 | - |",
        "| 10,000 | 8.0 | 5.0 | 1.00 |",
    ]


def test_page_is_written_from_what_is_kept():
    kept = json.loads((ROOT / "benchmarks" / "measured" / "compare_scale.json").read_text())
    assert (ROOT / "docs" / "scale.md").read_text() == page(kept)


def test_page_lists_the_commands_and_postgresql_where_they_were_measured():
    measured = {"cpu_s": 2.0, "wall_s": 3.0, "peak_mb": 200.0}
    few = {f"few_{name}": value / 2 for name, value in measured.items()}
    told = {"date": "2026-01-01", "machine": "2 cores", "load": 1.0}
    ways = [Measured(way, 1000, 1.0, 2.0, 3.0)._asdict() for way in (OURS, SEARCH, SQL)]
    commands = {
        "num_runs": 1000,
        "num_models": 7,
        "measured": [{"command": "gate"} | measured | few],
    }
    record = told | {"measured": ways}
    assert "PostgreSQL of this machine" not in page(record)
    text = page(record | {"postgres": record, "commands": told | commands})
    assert "| `gate` | 2 (1) | 3 (1.5) | 200 (100) |" in text
    assert text.count("| 1,000 | compare |") == 2


@pytest.mark.slow
def test_registry_of_the_benchmark_is_one_that_commands_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    fill(uri, 3, version=2)
    fill_registry(uri, 3)
    cpu_s, wall_s, peak_mb = cost_of(COMMANDS["gate"], uri)
    assert cpu_s > 0
    assert wall_s > 0
    assert 20 < peak_mb < 2000
    with pytest.raises(ClickException, match="No model version 'models:/nobody/1'"):
        cost_of(("gate", "models:/nobody/1", "--max-co2e-kg", "1"), uri)
