"""How a run is metered and reported: what the user chose, and what is left to the defaults."""

from dataclasses import dataclass, replace

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.assumptions import Assumptions, Defaults
from mlflow_carbon.contract.price_order import assumptions_in_order
from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.grid.price_settings import PriceSettings
from mlflow_carbon.grid.providers import LiveIntensity
from mlflow_carbon.metering.meter import MeterSettings
from mlflow_carbon.recording.live_forecast import CarbonPlan


@dataclass(frozen=True)
class TrackingOptions:
    """How a run is metered and reported.

    Attributes:
        unit: what one unit of a window is.
        region: where the electricity comes from; ``None`` takes the environment's, else WORLD.
        month: ``2022-02``; ``None`` takes the environment's, else the year's mean.
        pue: facility energy over IT energy; ``None`` takes the environment's, else the default.
        intensity_set: the only set of intensities to look in.
        carbon_intensity_g_per_kwh: the user's own figure; the region then only names it.
        live: what a provider has answered for the region; ``None`` where none was asked.
        defaults: what is assumed for what is left open.
        settings: what is measured; only those of the run that starts the meter count.
        plan: how much work the run will do, and what it may emit.
        is_silent: whether no receipt is printed when the run ends; ``None`` asks the environment.
    """

    unit: str = "iteration"
    region: str | None = None
    month: str | None = None
    pue: float | None = None
    intensity_set: str | None = None
    carbon_intensity_g_per_kwh: float | None = None
    live: LiveIntensity | None = None
    defaults: Defaults = Defaults()  # noqa: RUF009  # frozen
    settings: MeterSettings = MeterSettings()  # noqa: RUF009  # frozen
    plan: CarbonPlan = CarbonPlan()  # noqa: RUF009  # frozen
    is_silent: bool | None = None

    def assumptions(self) -> Assumptions:
        """Returns the factors that turn energy into CO2e: chosen here, in the environment, or not.

        Raises:
            MlflowCarbonError: a setting is out of range.
        """
        if self.unit not in keys.UNITS:
            raise InvalidInputError(
                f"unit is {self.unit!r}; use one of {', '.join(keys.UNITS)}.", arguments=["unit"]
            )
        chosen = PriceSettings(
            region=self.region,
            month=self.month,
            pue=self.pue,
            intensity_set=self.intensity_set,
            carbon_intensity_g_per_kwh=self.carbon_intensity_g_per_kwh,
        )
        return assumptions_in_order(chosen, live=self.live, defaults=self.defaults)

    def within(self, outer: "TrackingOptions") -> "TrackingOptions":
        """Returns these options, with settings left open taken from the outer options."""
        pue = outer.pue if self.pue is None else self.pue
        is_silent = outer.is_silent if self.is_silent is None else self.is_silent
        own = (self.region, self.month, self.intensity_set, self.carbon_intensity_g_per_kwh)
        if all(choice is None for choice in own):
            return replace(
                self,
                region=outer.region,
                month=outer.month,
                intensity_set=outer.intensity_set,
                carbon_intensity_g_per_kwh=outer.carbon_intensity_g_per_kwh,
                live=outer.live,
                pue=pue,
                is_silent=is_silent,
            )
        return replace(self, pue=pue, is_silent=is_silent)
