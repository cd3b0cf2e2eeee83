"""Text that others wrote cannot act where it is printed: alone, and from a store to each output."""

import csv
import io
import json

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from mlflow_carbon.cli import cli
from mlflow_carbon.inert import bibtex, csv_cell, json_text, markdown, shown, shown_lines
from mlflow_carbon.registry.run_models import record_run_models
from tests.fakes.metered_runs import experiment_id, write_run

# Clears a screen, sets a title, starts a line anew, turns the reading direction, has one byte.
CONTROL = "\x1b[2J\x1b]0;own\x07\rlie\u202e\x9b31m\x7f\u2028"
FORMULA = '=HYPERLINK("http://evil","x")'
HTML = "<script>alert(1)</script>"


def controls_in(text):
    """Returns what a terminal may obey or a reader not see, line breaks apart."""
    return [char for char in text if not char.isprintable() and char != "\n"]


# One text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain Größe 日本 😀", "plain Größe 日本 😀"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\r\n\tb", r"a\r\n\tb"),
        ("a\u202eb\x9b\ud800", r"a\u202eb\x9b\ud800"),
        ("no\u00a0break", "no\u00a0break"),
    ],
)
def test_control_characters_are_shown_escaped(text, expected):
    assert shown(text) == expected


def test_long_text_is_cut_and_says_so():
    assert shown("abcdefgh", max_chars=5) == "abcd…"
    assert shown("abcde", max_chars=5) == "abcde"
    assert len(shown("x" * 5_000_000)) == 2000


def test_line_breaks_that_are_meant_stay():
    assert shown_lines("a\tb\n\x1bc\n") == "a\\tb\n\\x1bc\n"


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-cmd|x", "@SUM(A1)", " =1+1", "＝1+1", FORMULA])
def test_formula_gets_an_apostrophe_in_a_csv_cell(text):
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-1", "+2.5", "-1e-3", "1", "a=b", "", "x-y", "nan"])
def test_number_and_plain_text_stay_in_a_csv_cell(text):
    assert csv_cell(text) == text


@pytest.mark.parametrize("text", ["\t=1+1", "\r=1+1", "\n=1+1"])
def test_tab_and_line_break_before_a_formula_are_shown(text):
    assert csv_cell(text)[0] == "\\"


@given(st.text())
def test_json_keeps_its_values_and_holds_no_control_character(text):
    written = json_text(json.dumps({"a": text}, indent=2, ensure_ascii=False))
    assert not controls_in(written.replace("\u00a0", "")) or all(
        char.isspace() for char in controls_in(written)
    )
    assert json.loads(written) == {"a": text}


@given(st.text())
def test_nothing_shown_is_a_control_character(text):
    for safe in (shown(text), csv_cell(text), markdown(text), bibtex(text)):
        assert all(char.isspace() for char in controls_in(safe))
        assert "\n" not in safe


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<b>&amp;</b>", "&lt;b&gt;&amp;amp;&lt;/b&gt;"),
        ("[x](http://evil) *b* `c`", r"\[x\](http://evil) \*b\* \`c\`"),
        ("snake_case and _stress_", r"snake_case and \_stress\_"),
        ("# head\n---", r"\# head\\n---"),
    ],
)
def test_markdown_and_html_are_shown_as_they_are(text, expected):
    assert markdown(text) == expected


def test_bibtex_cannot_leave_its_braces():
    assert bibtex(r"a} \input{x} 5%") == (
        r"a\textbraceright{} \textbackslash{}input\textbraceleft{}x\textbraceright{} 5\%"
    )


# From a store to each output


@pytest.fixture
def hostile(filled_store):
    """The run of a store whose run and model say hostile things wherever they may."""
    return filled_store(write_hostile_things)


def write_hostile_things(client):
    bad = f"{FORMULA}{CONTROL}{HTML}"
    tags = {
        "carbon.hardware": bad,
        "carbon.tracker": bad,
        "carbon.intensity_source": f"}} \\input{{x}} {bad}",
        "carbon.intensity_basis": bad,
        "carbon.method.cpu": bad,
        "note": bad,
    }
    run_id = write_run(
        client, "Default", windows=[(1.0, 4.0)] * 2, params={"note": bad}, tags=tags, name=bad
    )
    model = client.create_logged_model(experiment_id(client, "Default"), "m", source_run_id=run_id)
    client.create_registered_model("m")
    client.create_model_version("m", f"models:/{model.model_id}", run_id)
    record_run_models(client, run_id)
    unmeasured = write_run(
        client, "Default", windows=[], tags={"carbon.error": bad}, name="unmeasured"
    )
    client.create_registered_model("n")
    client.create_model_version("n", "file:///nowhere", unmeasured)
    return run_id


COMMANDS = [
    "compare --group-by note",
    "compare --group-by tags.note,carbon.hardware",
    "predict {run_id} --units 10",
    "predict latest --units 10",
    "advise latest",
    "models",
    "models --region SE",
    "gate models:/m/1 --max-co2e-kg 1e9",
    "gate models:/m/1 --max-co2e-kg 0",
    "gate models:/n/1 --max-co2e-kg 1",
    "predict unmeasured --units 1",
    "card models:/m/1",
    "card models:/m/1 --bibtex",
    "tag-models --all",
    "backfill --experiment Default --dry-run",
]


def output_of(line, run_id, *more):
    result = CliRunner().invoke(cli, [*line.format(run_id=run_id).split(), *more])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


@pytest.mark.parametrize("line", COMMANDS)
def test_no_control_character_of_a_store_reaches_a_terminal(hostile, line):
    result = output_of(line, hostile)
    assert controls_in(result.output) == []
    assert "\nlie" not in result.output


@pytest.mark.parametrize("format", ["csv", "json"])
@pytest.mark.parametrize("line", [line for line in COMMANDS[:7] if "note,carbon" not in line])
def test_no_control_character_of_a_store_reaches_a_file(hostile, line, format):
    assert controls_in(output_of(line, hostile, "--format", format).stdout) == []


def test_csv_of_a_store_holds_no_formula(hostile):
    text = output_of("compare --group-by note", hostile, "--format", "csv").stdout
    for row in csv.reader(io.StringIO(text)):
        assert not [cell for cell in row if cell[:1] in "=+@\t\r" and cell[:1]]
    assert "'=HYPERLINK" in text


def test_card_of_a_store_holds_no_html_and_the_same_values(hostile):
    text = output_of("card models:/m/1", hostile).stdout
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    head = yaml.safe_load(text.split("---\n")[1])["co2_eq_emissions"]
    assert HTML in head["hardware_used"]


def test_bibtex_of_a_store_cannot_run_tex(hostile):
    assert "\\input{" not in output_of("card models:/m/1 --bibtex", hostile).stdout


def test_a_tag_of_five_megabytes_prints_a_screen(store):
    client = MlflowClient(tracking_uri=store)
    names = [f"{letter * 5_000}" for letter in "ab"]
    for name in names:
        write_run(client, "Default", windows=[(1.0, 4.0)] * 2, params={"note": name})
    printed = output_of("compare --group-by note", "").stdout
    assert len(printed) < 5_000
    assert f"{'a' * 59}…" in printed
    rows = json.loads(output_of("compare --group-by note", "", "--format", "json").stdout)
    assert [row["note"] for row in rows] == names  # whole, for programs
