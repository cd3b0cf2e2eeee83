"""What turns measured energy into CO2e: a carbon intensity and a PUE, chosen or assumed."""

from dataclasses import dataclass

from mlflow_carbon.accounting.emissions import validate_pue
from mlflow_carbon.contract import keys
from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.grid.intensity import (
    GIVEN,
    CarbonIntensity,
    given_intensity,
    lookup_intensity,
    stage_notice,
)
from mlflow_carbon.grid.providers import LiveIntensity
from mlflow_carbon.grid.regions import OWN_FIGURE

SETTINGS = ("region", "intensity_set", "pue")  # the settings that have a default


@dataclass(frozen=True)
class Defaults:
    """The values of the settings that the user leaves open."""

    region: str = "WORLD"
    intensity_set: str = "ember"
    pue: float = 1.0


@dataclass(frozen=True)
class Assumptions:
    """The two looked-up factors of Eq. 1, and which of them the user did not choose."""

    intensity: CarbonIntensity
    pue: float
    defaulted: tuple[str, ...]
    fallback_reason: str | None = None  # why the intensity is not the live one asked for
    notice: str | None = None  # why the intensity does not compare with others

    @property
    def g_per_kwh(self) -> float:
        """CO2e in g for each kWh of IT energy: PUE × intensity."""
        return self.pue * self.intensity.g_per_kwh

    def tags(self) -> dict[str, str]:
        """Returns the run tags of the intensity and its source."""
        reason = self.fallback_reason
        return {
            **({} if reason is None else {keys.TAG_INTENSITY_FALLBACK: reason}),
            keys.TAG_REGION: self.intensity.region,
            keys.TAG_PERIOD: self.intensity.period,
            keys.TAG_INTENSITY_SET: self.intensity.intensity_set,
            keys.TAG_INTENSITY_SOURCE: self.intensity.source,
            keys.TAG_INTENSITY_BASIS: self.intensity.basis,
            keys.TAG_INTENSITY_G_PER_KWH: repr(float(self.intensity.g_per_kwh)),
            keys.TAG_PUE: repr(float(self.pue)),
        }

    def default_tags(self) -> dict[str, str]:
        """Returns a run tag for each setting that was left to its default."""
        return {keys.default_tag(setting): self._value_of(setting) for setting in self.defaulted}

    def sentence(self) -> str:
        """Returns one line for people: the factors, and which of them are defaults."""
        line = f"CO2e by {self.intensity.label} and PUE {self.pue:g}"
        if self.fallback_reason is not None:
            line += f"; not live: {self.fallback_reason.rstrip('.')}"
        if self.defaulted:
            line += f"; not chosen by you: {', '.join(self.defaulted)}"
        return f"{line}." if self.notice is None else f"{line}. {self.notice}"

    def _value_of(self, setting: str) -> str:
        values = {
            "region": self.intensity.region,
            "intensity_set": self.intensity.intensity_set,
            "pue": f"{self.pue:g}",
        }
        return values[setting]


def resolve_assumptions(
    *,
    region: str | None = None,
    month: str | None = None,
    pue: float | None = None,
    intensity_set: str | None = None,
    carbon_intensity_g_per_kwh: float | None = None,
    live: LiveIntensity | None = None,
    defaults: Defaults = Defaults(),  # frozen
) -> Assumptions:
    """Returns the factors for the settings given; ``None`` is filled from the defaults.

    Args:
        region: country name, ISO code, ``EU27`` or ``WORLD``.
        month: ``2022-02``; ``None`` for the year's mean of the set.
        pue: facility energy over IT energy, 1 to 3.
        intensity_set: the only set to look in; ``None`` tries the default set first.
        carbon_intensity_g_per_kwh: the user's own figure, used instead of a published one;
            the region then is only its name.
        live: a provider's answer, used instead of region, month and set.
        defaults: values of the settings that are not given.

    Raises:
        NoIntensityError: no intensity is known for that region and period.
        InvalidInputError: a setting is out of range, or two settings contradict each other.
    """
    used_pue = validate_pue(defaults.pue if pue is None else pue)
    if carbon_intensity_g_per_kwh is not None:
        if month is not None or intensity_set is not None or live is not None:
            raise InvalidInputError(
                f"{OWN_FIGURE} is one intensity; give it without a month, a set or a provider.",
                arguments=[OWN_FIGURE],
            )
        own = given_intensity(carbon_intensity_g_per_kwh, region=region or GIVEN)
        return Assumptions(own, used_pue, ("pue",) if pue is None else ())
    if live is not None:
        defaulted = ("pue",) if pue is None else ()
        return Assumptions(live.intensity, used_pue, defaulted, live.fallback_reason)
    chosen = {"region": region, "intensity_set": intensity_set or month, "pue": pue}
    intensity = lookup_intensity(
        region or defaults.region,
        month=month,
        intensity_set=intensity_set,
        preferred_set=defaults.intensity_set,
    )
    return Assumptions(
        intensity=intensity,
        pue=used_pue,
        defaulted=tuple(setting for setting, value in chosen.items() if value is None),
        notice=None
        if intensity_set is not None
        else stage_notice(intensity, expected_set=defaults.intensity_set),
    )
