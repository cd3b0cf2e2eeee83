"""The HTML report: right sums, nothing fetched, and nothing from a store that can act."""

import re
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.entities import RunTag

from mlflow_carbon.cli import cli
from mlflow_carbon.pictures.html_report import MAX_BYTES, Head, HtmlTable, text_cell
from mlflow_carbon.pictures.report_facts import REPORT_TAGS, footprint, unmeasured
from mlflow_carbon.store.runs import read_runs
from tests.fakes.metered_runs import experiment_id, write_run

HOSTILE = "</script><script>alert(1)</script> \x1b[31m =1+1 {{ 7*7 }} $x$"


class Page(HTMLParser):
    """Collects a page's scripts, addresses, handlers of events and text."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.addresses, self.handlers, self.texts = [], [], [], []
        self.open = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "script":
            self.scripts.append(dict(attrs).get("type", "text/javascript"))
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not value.startswith("#"):
                self.addresses.append((tag, value))
            if name.startswith("on"):
                self.handlers.append((tag, name))

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    def handle_endtag(self, tag):
        if self.open and tag in self.open:
            while self.open.pop() != tag:
                pass

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def report(store, tmp_path, *options):
    out = tmp_path / "report.html"
    result = CliRunner().invoke(cli, ["report", "--experiment", "e", "--out", str(out), *options])
    assert result.exit_code == 0, result.output
    return result, out.read_text(encoding="utf-8")


@pytest.fixture
def client(store):
    return MlflowClient(tracking_uri=store)


@pytest.mark.slow
def test_report_sums_each_joule_once_and_says_what_is_missing(store, client, tmp_path):
    # 250 g/kWh x 1.5 x (0.2 + 0.12) kWh = 120 g; 5 % of 0.2 and half of 0.12 are 22 % of 0.32 kWh,
    # 5 % of 0.2 and all of 0.12 are 41 %
    parent = write_run(client, "e", windows=[(0.2, 1.0)], name="sweep")
    write_run(client, "e", windows=[(0.1, 1.0)], parent_run_id=parent)
    write_run(client, "e", windows=[(0.12, 1.0)], method="tdp")
    client.create_run(experiment_id(client, "e"), run_name="not metered")
    result, text = report(store, tmp_path)
    said = (
        "e: 2 runs emitted 120 g CO2e (320 Wh; each within −22 to +41 %), priced at EU27 250 g/kWh "
        "(2022, paper_table1), PUE 1.5. Largest savings found: region EU27 251 g/kWh (2022, "
        "paper_table1) to SE 7 g/kWh (2022, paper_table1) −97.2 %."
    )
    assert result.stdout.splitlines()[0] == said
    page = Page(text).text
    assert said in page
    assert "Runs of the experiment that were not metered at all: 1." in page
    assert "Child runs in their parents' energy, and counted there: 1." in page
    assert "energy follows from its design power" in page
    assert "CPU counted 2 62.5 %" not in page  # a child is no run of the sum
    assert "CPU estimated 1 37.5 %" in page
    assert "cpu=" not in page
    assert parent in page


@pytest.mark.slow
def test_a_saving_by_fewer_steps_says_that_quality_was_not_compared(store, client, tmp_path):
    for steps, kwh, kid in (("1000", 2e-6, 1.0), ("5", 1e-6, 9.0)):
        for more in (1.0, 1.001):
            params = {"steps": steps, "sampler": "ddpm"}
            run_id = write_run(client, "e", windows=[(more * kwh, 1.0)] * 2, params=params)
            client.log_metric(run_id, "kid", kid * more)
    result, _ = report(store, tmp_path)
    assert re.search(r"steps 1000 to 5 −50 % \(95 %: .*; quality not compared\);", result.stdout)
    result, _ = report(store, tmp_path, "--quality", "kid")
    assert "steps" not in result.stdout.partition("Wrote")[0]  # five steps are nine times worse


@pytest.mark.slow
def test_groups_are_named_by_what_differs_and_an_absent_value_is_a_dash(store, client, tmp_path):
    for sampler in ("ddim", "ddim", None):
        write_run(
            client,
            "e",
            windows=[(2e-6, 1.0)] * 2,
            params={} if sampler is None else {"sampler": sampler},
        )
    _, text = report(store, tmp_path)
    compared = Page(text).text.partition("Compared")[2].partition("Kept apart")[0]
    heads = "sampler unit runs windows CO2e per unit (µg) energy per unit (mWh) within (%)"
    # 2e-6 kWh = 2 mWh; x 1.5 x 250 g/kWh = 750 µg; equal runs have no std
    assert f"{heads} ddim sample 2 4 750.0 2.000 0 - sample 1 2 750.0 2.000 0" in compared
    assert "nan" not in compared


@pytest.mark.slow
def test_report_needs_no_other_file(store, client, tmp_path):
    for steps, kwh in (("1000", 2.0), ("1000", 2.1), ("50", 0.3), ("50", 0.2)):
        write_run(client, "e", windows=[(kwh, 1.0)] * 3, params={"steps": steps})
    _, text = report(store, tmp_path)
    page = Page(text)
    assert len(text.encode()) < MAX_BYTES
    assert page.addresses == []
    assert "default-src 'none'" in text.replace("&#39;", "'")
    assert page.scripts == ["application/json", "text/javascript", "text/javascript"]
    assert text.count("<svg") >= 4  # the still pictures
    assert "steps 1000 50 −88" in page.text  # 1 - sqrt(0.06) / sqrt(4.2): 88.0 %


def test_nothing_from_the_store_can_act(store, client, tmp_path):
    for steps, kwh in (("10", 0.1), ("50", 0.4)):
        run_id = write_run(
            client,
            "e",
            windows=[(kwh, 1.0)] * 2,
            name=HOSTILE,
            params={"steps": steps, "model_size": HOSTILE + steps},
            region=HOSTILE,
            unit="sample",
        )
        client.log_batch(run_id, tags=[RunTag("carbon.error", HOSTILE)])
    result, text = report(store, tmp_path)
    page = Page(text)
    assert page.scripts == ["application/json", "text/javascript", "text/javascript"]
    assert page.handlers == []
    assert "<script>alert" not in text
    assert "\x1b" not in text + result.output
    assert "{{ 7*7 }}" in page.text  # shown as it is, not computed
    assert "</script><script>alert(1)</script> \\x1b[31m =1+1" in page.text


@pytest.mark.slow
def test_report_is_logged_to_the_newest_run(store, client, tmp_path):
    write_run(client, "e", windows=[(0.2, 1.0)])
    newest = write_run(client, "e", windows=[(0.2, 1.0)])
    result, text = report(store, tmp_path, "--log")
    assert result.stdout.endswith(f"Logged carbon/report.html to run {newest}.\n")
    path = client.download_artifacts(newest, "carbon/report.html", str(tmp_path))
    with open(path, encoding="utf-8") as logged:  # noqa: PTH123
        assert logged.read() == text


@pytest.mark.slow
def test_every_table_says_in_its_head_what_it_sorts(store, client, tmp_path):
    write_run(client, "e", windows=[(0.2, 1.0)])
    _, text = report(store, tmp_path)
    for table in re.findall(r"<table.*?</table>", text, re.DOTALL):
        heads = re.findall(r"<th [^>]*>", table)
        for row in re.findall(r"<tr><td.*?</tr>", table, re.DOTALL):
            assert row.count("<td") == len(heads) == row.count("data-value=")


def test_columns_that_say_nothing_are_left_out_of_a_table():
    heads = (Head("run"), Head("± between", True), Head("note"))
    rows = tuple((text_cell(name), text_cell("-"), text_cell("")) for name in ("a", "-"))
    table = HtmlTable(heads, rows).without_empty()
    assert table == HtmlTable((heads[0],), ((text_cell("a"),), (text_cell("-"),)))


def test_report_reads_the_tags_it_needs_and_tells_the_same(store, client):
    faults = {"carbon.error": "no counter", "carbon.shared": "true", "carbon.partial": "true"}
    aside = {"carbon.launch": "abc", "mlflow.user": "me", "carbon.model_input_ids": "m-1"}
    write_run(client, "e", windows=[(0.2, 1.0)], tags=faults | aside, params={"steps": "50"})
    all_runs = read_runs(client, experiment_names=["e"])
    few = read_runs(client, experiment_names=["e"], group_by=REPORT_TAGS)
    assert {f"tags.{tag}" for tag in faults} <= set(few.columns)
    assert not {f"tags.{tag}" for tag in aside} & set(few.columns)
    told = [unmeasured(it, footprint(it), num_unmetered=0) for it in (all_runs, few)]
    assert told[0] == told[1]
    assert any("no counter" in sentence for sentence in told[1])
