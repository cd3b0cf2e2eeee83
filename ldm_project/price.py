"""The price of a study's electricity, the paper's where nothing else is chosen."""

from dataclasses import dataclass

from ldm_project.config import PAPER_INTENSITY_SET, PAPER_PUE, PAPER_REGION
from mlflow_carbon.contract.assumptions import Assumptions, Defaults
from mlflow_carbon.contract.price_order import assumptions_in_order
from mlflow_carbon.grid.price_settings import PriceSettings

PAPER_DEFAULTS = Defaults(region=PAPER_REGION, intensity_set=PAPER_INTENSITY_SET, pue=PAPER_PUE)


@dataclass(frozen=True, kw_only=True)
class Price:
    """Where and when the electricity of a study is bought; ``None`` takes the default's."""

    region: str | None
    month: str | None
    pue: float | None

    def assumptions(self) -> Assumptions:
        """Returns the carbon intensity and PUE, those of the paper where nothing is chosen.

        Raises:
            MlflowCarbonError: no such region, month or PUE.
        """
        chosen = PriceSettings(region=self.region, month=self.month, pue=self.pue)
        return assumptions_in_order(chosen, defaults=PAPER_DEFAULTS)
