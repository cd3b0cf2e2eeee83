"""The benchmark of several processes: equal work on both sides, and a page that says no more."""

import pytest

from benchmarks.processes import Settings, works
from benchmarks.processes_page import Cost, Machine, cost_lines, page, ratio_lines

SETTINGS = Settings(
    max_processes=4, size="64", model_size="tiny", num_samples=64, iterations=200, batch_size=8
)
ALONE, SHARED = Cost(10, 4.0, 20.0, 9.0), Cost(40, 2.0, 40.0, 8.0)


@pytest.mark.parametrize(
    ("work", "alone", "shared"),
    [
        (0, ("--num-samples=64", "--batch-size=16"), ("--num-samples=64", "--batch-size=16")),
        (1, ("--iterations=200", "--batch-size=8"), ("--iterations=200", "--batch-size=8")),
        (2, ("--iterations=200", "--batch-size=8"), ("--iterations=200", "--batch-size=32")),
        (3, ("--iterations=200", "--batch-size=8"), ("--iterations=50", "--batch-size=32")),
    ],
)
def test_what_is_equal_is_equal_on_both_sides(work, alone, shared):
    assert works(SETTINGS, 1)[work].options == alone
    assert works(SETTINGS, 4)[work].options == shared


def test_images_are_those_of_all_iterations():
    # 200 iterations of 8; of 32; 50 of 32
    assert [work.num_images for work in works(SETTINGS, 4)] == [64, 1600, 6400, 1600]


def test_costs_are_medians():
    rounds = {"work": [{1: ALONE, 4: SHARED}, {1: Cost(10, 6.0, 40.0, 11.0), 4: SHARED}]}
    # medians of one process: 5 s, 30 J, of 2 and 4 J per image 3, 10 s
    assert list(cost_lines(rounds))[2:] == [
        "| work | 1 | 10 | 5 | 30 | 3 | 10 |",
        "| work | 4 | 40 | 2 | 40 | 1 | 8 |",
    ]


def test_ratios_are_those_within_a_round():
    rounds = [{1: ALONE, 4: SHARED}, {4: SHARED, 1: SHARED}, {1: ALONE, 4: ALONE}]
    # time: 0.5, 1, 1; energy: 2, 1, 1; energy per image: 1 J to 2 J is 0.5, then 1, 1
    assert list(ratio_lines({"work": rounds}))[2:] == [
        "| work | 4 | 1.00 (0.75 to 1.00) | 1.00 (1.00 to 1.50) | 1.00 (0.75 to 1.00) |"
    ]


def test_page_says_by_how_many_and_that_no_gpu_was_measured():
    text = page(
        {"work": [{1: ALONE, 2: SHARED, 4: SHARED}] * 2}, Machine("A CPU", "cpu tdp", 0.1, 0)
    )
    assert "by 1, 2 and 4 processes, in an order" in text
    assert "GPUs were not measured." in text
