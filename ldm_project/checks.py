"""What is refused before torch, which takes seconds, is loaded and a run is created."""

import re
from pathlib import Path

from ldm_project.config import PHANTOM, SAMPLERS
from ldm_project.errors import DataError, InvalidInputError
from ldm_project.parsing import num_phantoms
from ldm_project.settings import QualitySettings, RunSettings
from mlflow_carbon.contract.assumptions import Assumptions
from mlflow_carbon.contract.price_order import assumptions_in_order
from mlflow_carbon.grid.price_settings import PriceSettings

DEVICE = re.compile(r"[a-z]+(:\d+)?")
_NO_PATH = re.compile(r"^(msd|tcia):|[*?[]")  # a public data set, or a glob


def assumptions_of(settings: RunSettings) -> Assumptions:
    """Returns the carbon intensity and PUE of a command, so that bad ones fail before any work.

    Args:
        settings: with region, month, PUE and set.

    Raises:
        MlflowCarbonError: no such region, month or PUE.
    """
    return assumptions_in_order(
        PriceSettings(
            region=settings.region,
            month=settings.month,
            pue=settings.pue,
            intensity_set=settings.intensity_set,
        )
    )


def check_settings(settings: RunSettings) -> None:
    """Refuses a price, a device, samplers or data that cannot be; what a machine lacks comes later.

    Args:
        settings: of a command; what it does not have is not checked.

    Raises:
        MlflowCarbonError: names the parameter.
    """
    assumptions_of(settings)
    device = settings.device
    if device is not None and not DEVICE.fullmatch(device):
        raise InvalidInputError(f"device is {device!r}; use auto, cpu, cuda or cuda:1.")
    for one in settings.grid if isinstance(settings, QualitySettings) else (settings,):
        sampler = getattr(one, "sampler", None)
        if sampler is not None and sampler not in SAMPLERS:
            raise InvalidInputError(f"sampler is {sampler!r}; use one of {', '.join(SAMPLERS)}.")
    training = getattr(settings, "training", settings)
    source = getattr(training, "data", PHANTOM)
    is_local = num_phantoms(source) is None and not _NO_PATH.search(source)
    if is_local and not Path(source).expanduser().exists():
        raise DataError(f"No folder, file or glob {source!r}. Check data=, or use data=phantom.")
