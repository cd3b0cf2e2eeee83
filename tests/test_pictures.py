"""Pictures: golden images, what axes say, and names from a store that must not act."""

import os
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.testing.compare import compare_images
from mlflow import MlflowClient
from mlflow.entities import Metric
from PIL import Image

from mlflow_carbon.cli import cli
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.totals import Total
from mlflow_carbon.contract.windows import Window
from mlflow_carbon.errors import InvalidInputError, PlotsMissingError
from mlflow_carbon.pictures import interactive
from mlflow_carbon.pictures.extra import require
from mlflow_carbon.pictures.frames import (
    Amount,
    energy_so_far,
    month_points,
    pareto,
    points,
    price_texts,
    region_points,
    run_bars,
    with_numbers,
)
from mlflow_carbon.pictures.paper_figures import (
    image_size_figure,
    model_size_figure,
    region_month_figure,
    steps_gpus_figure,
)
from mlflow_carbon.pictures.run_figures import energy_figure, quality_figure, runs_figure
from mlflow_carbon.pictures.style import COLUMN_WIDTH_IN, DOTS_PER_INCH, house_style, save
from mlflow_carbon.store.runs import read_runs
from tests.fakes.metered_runs import write_run
from tests.test_compare import frame as runs_frame
from tests.test_compare import run_row

GOLDEN = Path(__file__).parent / "fixtures" / "pictures"
GOLDEN_DOTS_PER_INCH = 120
TOLERANCE = 8.0  # rms of 255: another FreeType shifts glyphs, a lost error bar is far more
# Where to put new golden images; they are looked at before they are committed.
RENEW_VARIABLE = "RENEW_GOLDEN_PICTURES"


def frame(rows, panel="sample"):
    columns = ["panel", "series", "x", "mean", "std", "num_runs"]
    return with_numbers(pd.DataFrame([(panel, *row) for row in rows], columns=columns))


def sizes():
    two = [("dims 2", str(x), 20.0 * (x / 64) ** 2, 2.0 * (x / 64) ** 2, 3) for x in (64, 256, 512)]
    three = [("dims 3", str(x), 50.0 * (x / 32) ** 3, 20.0, 3) for x in (32, 64, 128)]
    return image_size_figure(frame(two + three), amount=Amount("unit", 10_000), x_label="size")


def models():
    rows = [
        (f"dims {dims}", size, factor * dims * 1e-3, 2e-4, 2)
        for dims in (2, 3)
        for size, factor in (("tiny", 1.0), ("small", 1.3), ("large", 1.8))
    ]
    return model_size_figure(frame(rows), amount=Amount(), x_label="model_size")


def regions():
    return region_month_figure(
        region_points(2.0, pue=1.2, own="DE"),
        month_points(2.0, "DE", pue=1.2, year="2022"),
        title="CO2e of a run, mean of 3 runs",
    )


def steps():
    over_steps = [("", str(n), 1e-3 * (2 + n / 20), 1e-4 * n / 20, 3) for n in (10, 50, 200, 1000)]
    over_gpus = [("", str(n), 1e-3 * (12 + n), 1e-3, 3) for n in (1, 4)]
    return steps_gpus_figure(frame(over_steps), frame(over_gpus), amount=Amount())


def energy():
    ends = np.arange(0.0, 361.0, 60.0)
    windows = pd.DataFrame({"end_s": ends, "cpu": ends * 1e-6, "gpu": ends**1.1 * 2e-6})
    return energy_figure(windows, title="train", is_estimated=True)


def quality():
    points = pd.DataFrame(
        {
            "mean": [1e-3, 2e-3, 3e-3, 9e-3],
            "std": [1e-4, 1e-4, float("nan"), 3e-4],
            "quality": [5.0, 2.5, 3.5, 2.4],
            "quality_std": [0.3, 0.2, float("nan"), 0.1],
            "label": ["steps 10", "steps 50", "steps 60", "steps 1000"],
        }
    )
    return quality_figure(
        pareto(points, is_lower_better=True),
        metric="kid",
        amount_text="per sample",
        is_lower_better=True,
    )


def runs():
    bars = pd.DataFrame(
        {
            "label": ["train · 0a1b2c", "synth 2D 64² · 9f8e7d", "killed · 123456"],
            "mean": [2.5, 0.7, 0.2],
            "is_partial": [False, False, True],
        }
    )
    return runs_figure(bars)


FIGURES = [sizes, models, regions, steps, energy, quality, runs]


@pytest.mark.slow
@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_figure_looks_as_it_did(draw, tmp_path):
    with house_style():
        figure = draw()
        path = tmp_path / f"{draw.__name__}.png"
        figure.savefig(path, dpi=GOLDEN_DOTS_PER_INCH)
    if RENEW_VARIABLE in os.environ:
        renew(path, GOLDEN / path.name)
    assert difference(GOLDEN / path.name, path, folder=tmp_path) is None


def on_white(path):
    """Returns a picture as RGB; where it can be seen through, there is white behind it."""
    picture = Image.open(path).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def renew(path, golden_path):
    """Keeps a picture, in few bytes, for later ones to be held to."""
    few_colours = on_white(path).convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
    few_colours.save(golden_path, optimize=True)


def difference(golden_path, path, *, folder):
    """Returns in what a picture differs from a kept one, both as RGB; ``None`` if in nothing."""
    pair = folder / "golden.png", folder / "drawn.png"  # beside which the difference is written
    for kept, copy in zip((golden_path, path), pair, strict=True):
        on_white(kept).save(copy)
    return compare_images(*map(str, pair), tol=TOLERANCE)


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_a_renewed_picture_is_equal_to_what_was_drawn_though_it_can_be_seen_through(
    alpha, tmp_path
):
    drawn, golden = tmp_path / "picture.png", tmp_path / "kept.png"
    picture = Image.new("RGBA", (40, 30), (255, 255, 255, 255))
    picture.paste((0, 90, 200, alpha), (5, 5, 35, 25))
    picture.save(drawn)
    renew(drawn, golden)
    assert difference(golden, drawn, folder=tmp_path) is None
    picture.paste((200, 0, 0, 255), (5, 5, 35, 25))
    picture.save(drawn)
    assert difference(golden, drawn, folder=tmp_path) is not None


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_figure_fits_a_column_and_says_its_units_and_error_bars(draw):
    with house_style():
        figure = draw()
    assert figure.get_figwidth() == COLUMN_WIDTH_IN
    labels = [
        text for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel()) if text
    ]
    assert any("(" in label for label in labels)
    note = " ".join(text.get_text() for text in figure.texts).replace("\n", " ")
    assert "rror bar" in note or "its error is not known" in note


@pytest.mark.slow
def test_equivalents_on_the_right_are_the_mass_over_their_factor():
    with house_style():
        figure = sizes()
    axes = figure.axes[0]
    (twin,) = axes.child_axes
    figure.canvas.draw()
    low, _ = axes.get_ylim()  # kg
    assert twin.get_ylim()[0] == pytest.approx(low / 0.1081, rel=1e-6)  # kg CO2e a km
    assert twin.get_ylabel() == "km by car"


def test_pareto_front_holds_what_nothing_beats():
    points = pd.DataFrame({"mean": [1.0, 2.0, 3.0, 4.0], "quality": [5.0, 3.0, 3.0, 2.0]})
    assert list(pareto(points, is_lower_better=True)["is_on_front"]) == [True, True, False, True]
    assert list(pareto(points, is_lower_better=False)["is_on_front"]) == [True, False, False, False]


@pytest.mark.parametrize(
    ("parts_kwh", "names"), [({"gpu": 5e-6}, ["gpu"]), ({"gpu": 3e-6, "cpu": 2e-6}, ["all"])]
)
def test_windows_that_keep_no_components_are_the_only_components(parts_kwh, names):
    windows = {step: Window(100.0 + 10 * step, 10.0, 2e-6, {}, 1.0, "epoch") for step in (1, 2)}
    record = RunRecord(
        "1", total=Total(20.0, 5e-6, None, parts_kwh), windows=windows, total_end_ms=120_000
    )
    frame = energy_so_far(record)
    assert list(frame) == ["end_s", *names]
    assert list(frame["end_s"]) == [0, 10, 20, 20]
    assert list(frame[names[0]]) == pytest.approx([0, 2e-6, 4e-6, 5e-6])


def test_sizes_in_text_are_sorted_by_what_they_hold():
    rows = [("", x, 1.0, 0.0, 1) for x in ("256x256x192", "64x64x64", "128x128x128")]
    assert list(frame(rows)["x"]) == ["64x64x64", "128x128x128", "256x256x192"]


def test_the_user_s_own_settings_of_matplotlib_stay():
    before = dict(mpl.rcParams)
    with house_style():
        runs()
    assert dict(mpl.rcParams) == before


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_each_format_is_written_the_same_twice(ending, tmp_path):
    paths = [tmp_path / f"{number}.{ending}" for number in (1, 2)]
    for path in paths:
        with house_style():
            figure = runs()
        save(figure, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_format_nobody_knows_is_refused(tmp_path):
    with house_style():
        figure = runs()
    with pytest.raises(InvalidInputError, match=r"end it in \.png, \.svg or \.pdf"):
        save(figure, tmp_path / "x.bmp")


def test_a_missing_package_is_told_in_one_line():
    with pytest.raises(PlotsMissingError) as error:
        require(("matplotlib", "no_such_package"))
    assert str(error.value) == (
        "Pictures need no_such_package: pip install 'mlflow-carbon[plots]'."
    )


HOSTILE = "\x1b[31m$\\frac{1}{0}$ <script>alert(1)</script> =1+1"


@pytest.fixture
def hostile_store(store):
    client = MlflowClient(tracking_uri=store)
    for count, steps in enumerate(("10", "10", "50", "50")):
        run_id = write_run(
            client,
            "e",
            windows=[(0.1 * int(steps) * (1 + count / 10), 2.0)] * 3,
            name=HOSTILE,
            params={"steps": steps, "size": "64", "model_size": HOSTILE, "num_processes": steps},
        )
        client.log_batch(run_id, metrics=[Metric("kid", 100 / float(steps) + count / 10, 0, 0)])
    return store


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["image-size"],
        ["model-size", "--per", "run"],
        ["region", "--scale-to", "100"],
        ["steps", "--region", "SE,DE"],
        ["energy"],
        ["quality", "--quality", "kid"],
        ["runs"],
    ],
    ids=" ".join,
)
def test_command_draws_every_kind_whatever_runs_are_called(hostile_store, tmp_path, arguments):
    out = tmp_path / "figure.png"
    command = ["plot", *arguments, "--experiment", "e", "--out", str(out)]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"Wrote {out}.\n"
    assert Image.open(out).width == round(COLUMN_WIDTH_IN * DOTS_PER_INCH)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["quality"], 2, "quality needs --quality METRIC"),
        (["steps", "--x", "speed"], 1, "No run has a parameter or tag 'speed'"),
        (["steps", "--scale-to", "0"], 1, "give a number of units above 0"),
        (["quality", "--quality", "fid"], 1, "Metrics of theirs: kid"),
    ],
)
def test_command_says_what_is_wrong(hostile_store, tmp_path, arguments, exit_code, message):
    command = ["plot", *arguments, "--experiment", "e", "--out", str(tmp_path / "x.png")]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == exit_code
    assert message in result.stderr


def noted(figure):
    """Returns the note below a figure's panels, on one line."""
    return " ".join(text.get_text() for text in figure.texts).replace("\n", " ")


def test_a_series_is_named_by_what_differs_inside_its_unit():
    # unlike samplers and the absent one are kept apart by compare, not by who asks
    rows = [run_row(params__sampler=name, params__size="64") for name in ("ddim", "unipc")]
    rows += [run_row(unit="iteration", params__size="64")]
    drawn = points(runs_frame(*rows), x="size").set_index("panel")["series"]
    assert sorted(drawn["sample"]) == ["sampler ddim", "sampler unipc"]
    assert drawn["iteration"] == ""
    asked = points(runs_frame(rows[0]), x="size", series=["params.sampler"])
    assert list(asked["series"]) == ["sampler ddim"]


def test_note_names_the_prices_of_what_is_drawn():
    sweden, germany = "SE 35.8 g/kWh (2024, ember), PUE 1", "DE 344 g/kWh (2024, ember), PUE 1"
    over_steps = frame([("", str(n), 1e-3, 1e-4, 3) for n in (10, 50)])
    over_steps["price"] = [sweden, germany]
    note = noted(steps_gpus_figure(over_steps, pd.DataFrame(), amount=Amount()))
    assert note.endswith(f"CO2e by {sweden}; {germany}.")
    assert "CO2e by" not in noted(steps())  # whose prices are not known


def test_note_of_regions_has_their_intensities_years_and_set():
    note = noted(regions())
    assert re.search(r"g/kWh by region: SE [\d.]+, .*DE [\d.]+.* \(2024, ember\)", note), note


def test_price_texts_leave_out_what_is_not_known():
    columns = ["region", "intensity_g_per_kwh", "period", "intensity_set", "pue"]
    rows = pd.DataFrame(
        [
            ("SE", 7.0, "2022", "ember", 1.5),
            ("SE", float("nan"), "2022", "ember", 1.5),
            ("lab", 9.0, "given", "given", 1.0),
        ],
        columns=columns,
    )
    assert price_texts(rows) == [
        "SE 7 g/kWh (2022, ember), PUE 1.5",
        "",
        "lab 9 g/kWh (given), PUE 1",
    ]


def test_sizes_that_were_left_at_auto_are_what_they_became(store):
    client = MlflowClient(tracking_uri=store)
    for params in ({"size": "auto", "resolved.size": "64x64"}, {"size": "32"}):
        write_run(client, "e", windows=[(1, 2.0)] * 3, params=params)
    found = points(read_runs(client, experiment_names=["e"]), x="size")
    assert list(found["x"]) == ["32", "64x64"]


def drawn(figure):
    """Draws a figure, as saving does; returns the box of its canvas in pixels."""
    with house_style():
        figure.canvas.draw()
    return figure.bbox


def inside(box, outer):
    return outer.x0 <= box.x0 and box.x1 <= outer.x1 and outer.y0 <= box.y0 and box.y1 <= outer.y1


@pytest.mark.slow
@pytest.mark.parametrize("num_series", [2, 5, 9])
@pytest.mark.parametrize("draw", [image_size_figure, model_size_figure])
def test_a_legend_of_many_or_long_names_neither_leaves_the_figure_nor_squeezes_it(draw, num_series):
    names = [f"sampler dpmpp_sde-{n}, region WORLD" for n in range(num_series)]
    rows = [(name, str(x), 1e-3 * x, 1e-4, 2) for name in names for x in (64, 128)]
    with house_style():
        figure = draw(frame(rows), amount=Amount(), x_label="size")
    canvas = drawn(figure)
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert inside(legend.get_window_extent(), canvas)
    assert [text.get_text() for text in legend.get_texts()] == names  # whole
    assert axes.get_window_extent().width > 0.7 * canvas.width
    assert not legend.get_window_extent().overlaps(axes.get_window_extent().padded(-1))


@pytest.mark.slow
def test_a_note_of_wide_letters_fits_its_column():
    figure = quality_figure(
        pareto(
            pd.DataFrame(
                {
                    "mean": [1.0, 2.0],
                    "std": [0.1, 0.1],
                    "quality": [2.0, 1.0],
                    "quality_std": [0.1, 0.1],
                    "label": ["a", "b"],
                    "price": [
                        "WORLD 471.1 g/kWh (2024, EMBER WWWWWW), PUE 1",
                        "SE WWWWWWWWW 35 g/kWh",
                    ],
                }
            ),
            is_lower_better=True,
        ),
        metric="kid",
        amount_text="per sample",
        is_lower_better=True,
    )
    canvas = drawn(figure)
    (note,) = figure.texts
    assert inside(note.get_window_extent(), canvas)


def test_bars_are_named_by_the_ends_of_runs_and_namesakes_by_their_ids():
    names = ["setting of synth 2D 32² unipc-20 seed 0", "setting of synth 2D 32² unipc-20 seed 1"]
    names += ["train", "train"]
    columns = ["region", "intensity_g_per_kwh", "period", "intensity_set", "pue"]
    bars = pd.DataFrame({"run_name": names, "co2e_g": [4.0, 3.0, 2.0, 1.0]})
    bars["run_id"] = ["1234567", "2345678", "3456789", "4567890"]
    found = run_bars(bars.assign(**dict.fromkeys(columns)))
    assert list(found["label"]) == [
        "setting of s… 2D 32² unipc-20 seed 0",
        "setting of s… 2D 32² unipc-20 seed 1",
        "train · 345678",
        "train · 456789",
    ]


def test_months_of_another_region_are_said_to_be_so():
    shown = region_month_figure(
        region_points(2.0, pue=1.0, own="SE"), month_points(2.0, "DE", pue=1.0), title="t"
    )
    assert "No months are known of SE; drawn: DE." in shown.texts[0].get_text().replace("\n", " ")
    own = region_month_figure(
        region_points(2.0, pue=1.0, own="DE"), month_points(2.0, "DE", pue=1.0), title="t"
    )
    assert "No months" not in own.texts[0].get_text().replace("\n", " ")


@pytest.mark.parametrize(("num_series", "is_above"), [(2, False), (5, True)])
def test_a_long_legend_of_the_report_hides_no_data(num_series, is_above):
    rows = [(f"dims {n}", str(x), 1e-3, 1e-4, 2) for n in range(num_series) for x in (64, 128)]
    found = interactive.lines_item(frame(rows), x_label="size", y_label="CO2e")
    (plot,) = found["doc"]["roots"]
    kinds = [each["name"] for each in plot["attributes"].get("above", [])]
    assert ("Legend" in kinds) is is_above
    axes = [each for side in ("left", "below") for each in plot["attributes"][side]]
    assert [axis["attributes"]["minor_tick_line_color"] for axis in axes] == [None, None]
