"""MLflow's own registry page, in a real browser: models found by band and threshold tags."""

import shutil

import pytest
from mlflow import MlflowClient
from playwright.sync_api import Locator, Page, expect, sync_playwright

from mlflow_carbon.registry.run_models import record_run_models
from tests.fakes.metered_runs import write_run
from tests.fakes.mlflow_server import mlflow_server
from tests.fakes.screenshots import shoot

# kWh x 1.5 x 250 g/kWh: 75 g and 38 g (band A), 3 kg (C), 34 kg (D)
ENERGY_KWH = {
    "ldm-ct-2d-64-tiny": 0.2,
    "vqgan-ct-2d-64-tiny": 0.1,
    "ldm-ct-2d-256-small": 8.0,
    "ldm-ct-3d-large": 90.0,
}
BAND_A = {"ldm-ct-2d-64-tiny", "vqgan-ct-2d-64-tiny"}

pytestmark = pytest.mark.browser


@pytest.fixture
def page(store, tmp_path):
    """The registry page of a real ``mlflow ui`` over three registered models."""
    client = MlflowClient(tracking_uri=store)
    for name, energy_kwh in ENERGY_KWH.items():
        run_id = write_run(client, "train", windows=[(energy_kwh, 100.0)], unit="iteration")
        client.create_registered_model(name)
        client.create_model_version(name, "s3://bucket/model", run_id)
        assert record_run_models(client, run_id)
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    with mlflow_server(store, tmp_path) as uri, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 330})
        page.goto(f"{uri}/#/models")
        expect(row(page, "ldm-ct-3d-large")).to_be_visible(timeout=60_000)
        page.keyboard.press("Escape")  # what MLflow shows a first visitor in front of the page
        yield page
        browser.close()


def row(page: Page, name: str) -> Locator:
    return page.get_by_role("row").filter(has_text=name)


def search(page: Page, text: str, *, found: set[str]) -> None:
    """Types into the search box, and waits until the page shows these models and no others."""
    box = page.get_by_test_id("model-search-input")
    box.fill(text)
    box.press("Enter")
    for name in sorted(ENERGY_KWH, key=lambda name: name not in found):
        expect(row(page, name)).to_have_count(int(name in found), timeout=30_000)


def test_registry_page_finds_models_by_band_and_threshold(page):
    search(page, "tags.`carbon.band` = 'D'", found={"ldm-ct-3d-large"})
    search(page, "tags.`carbon.under_10kg` = 'true'", found=BAND_A | {"ldm-ct-2d-256-small"})
    search(page, "tags.`carbon.band` = 'A'", found=BAND_A)
    page.get_by_test_id("model-search-input").blur()
    shoot(page, "registry")
