"""docs/validation.md is what its program writes, and holds what it promises."""

import pytest

from benchmarks.validation import PAGE, Row, cases, error_fraction, page, row_of

# quick: known joules in test_meter_accuracy.py, and README against the page in test_readme.py
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [row_of(case) for case in cases()]


def test_validation_page_is_what_the_program_writes(rows: list[Row]) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(rows)


def test_every_case_is_right_to_half_a_percent(rows: list[Row]) -> None:
    assert {row.name: error_fraction(row) for row in rows if error_fraction(row) > 0.005} == {}


def test_codecarbons_reader_agrees_wherever_there_is_rapl(rows: list[Row]) -> None:
    both = [row for row in rows if row.codecarbon_joules is not None]
    assert len(both) >= 4
    for row in both:
        assert row.our_joules == pytest.approx(row.codecarbon_joules, rel=1e-6)


def test_carbontracker_misses_devices_and_wraps(rows: list[Row]) -> None:
    wrong = {row.name for row in rows if row.carbontracker_joules < 0.99 * row.true_joules}
    assert {"4 GPU, counter, constant", "1 package, counter wraps once"} <= wrong
