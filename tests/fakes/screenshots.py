"""Pictures of pages that tests have opened, kept where `make screenshots` asks for them."""

import io
import os
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

# The folder of the pictures; where it is not set, none is kept.
FOLDER_VARIABLE = "SCREENSHOTS_FOLDER"
NUM_COLOURS = 128  # enough for text and lines, at a third of the size


def shoot(page: Page, name: str) -> None:
    """Keeps a picture of the page, without MLflow's assistant beside it, where one is asked for."""
    if FOLDER_VARIABLE not in os.environ:
        return
    for close in page.get_by_role("button", name="Close", exact=True).all():
        close.click()
    page.wait_for_timeout(1500)  # what slides in or out has come to rest
    path = Path(os.environ[FOLDER_VARIABLE]) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(NUM_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
