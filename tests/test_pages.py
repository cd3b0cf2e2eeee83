"""What a person sees, in a real browser: MLflow's pages of metered runs, and the report."""

import json
import shutil

import mlflow
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from playwright.sync_api import Page, expect, sync_playwright

import mlflow_carbon
from mlflow_carbon.accounting.amounts import mass_text
from mlflow_carbon.cli import cli
from mlflow_carbon.contract import keys
from mlflow_carbon.testing.meter import FakeMeter, reading
from mlflow_carbon.tracking.receipts import runs_in_ui
from tests.fakes.mlflow_server import mlflow_server
from tests.fakes.screenshots import shoot

DESKTOP, PHONE = (1280, 800), (390, 844)
PATIENCE_MS = 60_000  # a busy machine is slow
EXPERIMENT = "ldm-ct"
VIEW = "workflowType=machine_learning"
JOULES_BY_STEPS = {1000: 60.0, 200: 16.0, 50: 6.0}

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def write_synthesis(steps: int, joules: float) -> str:
    """Returns the id of a run that was metered, by a fake meter, as real code meters it."""
    windows = [reading(cpu_joules=joules * factor, duration_s=30) for factor in (1.0, 1.04, 0.97)]
    whole = reading(cpu_joules=3.1 * joules, duration_s=95)
    with mlflow.start_run(run_name=f"synth 2D 64² unipc-{steps}") as run:
        mlflow.log_params({"steps": steps, "dims": 2, "size": 64})
        with mlflow_carbon.track(
            region="SE", unit="sample", meter=FakeMeter([*windows, whole])
        ) as tracker:
            for number in range(3):
                with tracker.window(10):
                    mlflow.log_metric("loss", 1 / (number + 1), step=number)
    return run.info.run_id


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A server with three metered runs and their report; gives its URI, the ids and the folder."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_CARBON_JOURNAL_DIR", str(folder / "journals"))
        store = f"sqlite:///{folder}/mlflow.db"
        with mlflow_server(store, folder) as uri:
            mlflow.set_tracking_uri(uri)
            experiment = mlflow.set_experiment(EXPERIMENT)
            ids = [write_synthesis(*item) for item in JOULES_BY_STEPS.items()]
            command = ["report", "--experiment", EXPERIMENT, "--out", "report.html", "--log"]
            result = CliRunner().invoke(cli, command)
            assert result.exit_code == 0, result.output
            yield {"uri": uri, "ids": ids, "folder": folder, "experiment": experiment.experiment_id}
            mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def browser():
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser, size):
    """Yields a page of a size; what it complains about is in ``page.complaints``."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.size_name = "desktop" if size == DESKTOP else "phone"
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("requestfailed", lambda failed: page.complaints.append(failed.url))
    yield page
    page.close()


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def page(request, browser):
    yield from opened(browser, request.param)


@pytest.fixture
def desktop(browser):
    """A wide page: on a phone MLflow's menu leaves 80 pixels for charts and tables."""
    yield from opened(browser, DESKTOP)


def visit(page: Page, site, path: str, sign: str) -> None:
    """Opens a page of MLflow's view of trainings, and waits until it shows a text."""
    page.goto(f"{site['uri']}/#/{path}")
    expect(page.get_by_text(sign).first).to_be_visible(timeout=PATIENCE_MS)
    page.keyboard.press("Escape")  # what MLflow shows a first visitor in front of the page


def test_run_page_shows_the_total(page, site):
    run_id = site["ids"][0]
    visit(
        page,
        site,
        f"experiments/{site['experiment']}/runs/{run_id}?{VIEW}",
        keys.CO2E_G,
    )
    total = MlflowClient(site["uri"]).get_run(run_id).data.metrics[keys.CO2E_G]
    # 3.1 x 60 J at Sweden's intensity, PUE 1; the page shows some of its digits
    row = page.get_by_role("row").filter(has=page.get_by_text(keys.CO2E_G, exact=True))
    expect(row.first).to_contain_text(f"{total:.3g}"[:5], timeout=PATIENCE_MS)
    expect(page.get_by_text(f"{mass_text(total)} CO2e (").first).to_be_visible()
    shoot(page, f"run-{page.size_name}")


def test_charts_of_a_run_start_with_co2e_and_keep_the_user_s(desktop, site):
    path = f"experiments/{site['experiment']}/runs/{site['ids'][0]}/model-metrics"
    visit(desktop, site, f"{path}?{VIEW}", "carbon")
    ours = keys.CO2E_G.rpartition("/")[2]
    expect(desktop.get_by_text(ours, exact=True).first).to_be_visible(timeout=PATIENCE_MS)
    # the tab, and the section of metrics without a slash
    expect(desktop.get_by_text("Model metrics", exact=True)).to_have_count(2, timeout=PATIENCE_MS)
    shoot(desktop, "charts")


def test_page_of_three_compared_runs_shows_steps_beside_co2e(desktop, site):
    ids = json.dumps(site["ids"])
    experiments = json.dumps([site["experiment"]])
    path = f"compare-runs?runs={ids}&experiments={experiments}&{VIEW}"
    visit(desktop, site, path, "Comparing 3 Runs")
    expect(desktop.get_by_text(keys.CO2E_G, exact=True).first).to_be_attached(timeout=PATIENCE_MS)
    for steps in JOULES_BY_STEPS:
        expect(desktop.get_by_text(str(steps), exact=True).first).to_be_attached()


def receipts_link(site) -> str:
    """Returns the address that the receipt gives for all runs, on the server of the test."""
    shown = runs_in_ui(MlflowClient(site["uri"]), site["experiment"], steps_parameter="steps")
    assert shown is not None
    return shown.removeprefix(f"{site['uri']}/#/")


def test_the_receipts_link_shows_runs_with_their_co2e(desktop, site):
    visit(desktop, site, receipts_link(site), "unipc-1000")
    for name in ("Description", "steps", keys.CO2E_G):
        head = desktop.get_by_role("columnheader", name=name)
        expect(head.first).to_be_attached(timeout=PATIENCE_MS)
    for id_ in site["ids"]:
        run = MlflowClient(site["uri"]).get_run(id_)
        mass = mass_text(run.data.metrics[keys.CO2E_G])
        row = desktop.get_by_role("row").filter(has_text=f"{mass} CO2e (")
        expect(row.first).to_be_visible(timeout=PATIENCE_MS)  # the description starts with it
    shoot(desktop, "runs")


def test_the_receipts_link_draws_co2e_against_steps(desktop, site):
    visit(desktop, site, f"{receipts_link(site)}&compareRunsMode=CHART", "CO2e by steps")
    chart = desktop.locator(".js-plotly-plot").filter(has=desktop.locator(".scatterlayer")).first
    expect(chart.locator(".xtitle")).to_have_text("steps", timeout=PATIENCE_MS)
    expect(chart.locator(".ytitle")).to_have_text(keys.CO2E_G)
    expect(chart.locator(".scatterlayer .point")).to_have_count(len(site["ids"]))
    shoot(desktop, "compare")


def test_report_renders_as_an_artifact(page, site):
    path = f"experiments/{site['experiment']}/runs/{site['ids'][-1]}/artifacts/carbon/report.html"
    page.goto(f"{site['uri']}/#/{path}?{VIEW}")
    frame = page.frame_locator("iframe").first
    expect(frame.locator(".answer")).to_contain_text("3 runs emitted", timeout=PATIENCE_MS)
    shoot(page, f"artifact-{page.size_name}")


def test_report_is_drawn_offline_sorts_and_fits(page, site):
    page.context.set_offline(True)
    page.goto(f"file://{site['folder']}/report.html")
    expect(page.locator("figure.drawn").first).to_be_visible(timeout=PATIENCE_MS)
    assert page.locator("figure.drawn").count() >= 3
    assert page.locator("figure.drawn .still").first.is_visible() is False
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if page.size_name == "phone":  # no table is wider than the screen
        widths = page.locator(".wide").evaluate_all("all => all.map((it) => it.scrollWidth)")
        assert len(widths) >= 3
        assert max(widths) <= PHONE[0]
    runs = page.locator("table").filter(has=page.get_by_role("button", name="id", exact=True))
    head = runs.get_by_role("button", name="CO2e")
    for is_up in (True, False):
        head.click()
        values = runs.locator("tbody td:nth-child(3)").evaluate_all(
            "cells => cells.map(cell => Number(cell.dataset.value))"
        )
        assert values == sorted(values, reverse=not is_up)
        assert len(values) == 3
    page.evaluate("scrollTo(0, 0)")
    shoot(page, f"report-{page.size_name}")
    page.emulate_media(media="print")
    assert page.locator("figure.drawn .still").first.is_visible()
    page.emulate_media(media="screen", color_scheme="dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark == "rgb(22, 24, 26)"
    shoot(page, f"report-dark-{page.size_name}")
    assert page.complaints == []


def test_report_without_scripts_shows_still_pictures(browser, site):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"file://{site['folder']}/report.html")
    still = page.locator("figure .still svg")
    assert still.count() >= 4
    assert still.first.is_visible()
    context.close()
