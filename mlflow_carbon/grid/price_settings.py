"""The settings that price energy, in the order: argument or parameter, environment, default."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TypeVar

from mlflow_carbon.errors import InvalidInputError

PREFIX = "MLFLOW_CARBON_"

T = TypeVar("T")


@dataclass(frozen=True)
class PriceSettings:
    """What the user has chosen of the two looked-up factors of Eq. 1; ``None`` is left open.

    Attributes:
        region: where the electricity comes from.
        month: ``2022-02``, or a year.
        pue: facility energy over IT energy.
        intensity_set: the only set of intensities to look in.
        carbon_intensity_g_per_kwh: the user's own figure.
    """

    region: str | None = None
    month: str | None = None
    pue: float | None = None
    intensity_set: str | None = None
    carbon_intensity_g_per_kwh: float | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "PriceSettings":
        """Returns the choices of the variables ``MLFLOW_CARBON_*``.

        Raises:
            InvalidInputError: a variable that holds a number holds none.
        """
        return cls(
            region=chosen_text("region", environment),
            month=chosen_text("month", environment),
            pue=_number("pue", environment),
            intensity_set=chosen_text("intensity_set", environment),
            carbon_intensity_g_per_kwh=_number("carbon_intensity_g_per_kwh", environment),
        )

    def over(self, other: "PriceSettings") -> "PriceSettings":
        """Returns these settings, and the other ones for what is open here.

        A figure of the user's own on one side ends what is chosen of published ones on the other,
        for the two contradict each other; a region then is only the figure's name.
        """
        is_own = self.carbon_intensity_g_per_kwh is not None
        is_published = any(it is not None for it in (self.region, self.month, self.intensity_set))
        left_out = {"month", "intensity_set"} if is_own else set()
        if is_published:
            left_out.add("carbon_intensity_g_per_kwh")
        values = {}
        for field in fields(self):
            own = getattr(self, field.name)
            lent = None if field.name in left_out else getattr(other, field.name)
            values[field.name] = lent if own is None else own
        return PriceSettings(**values)


def variable_of(name: str) -> str:
    """Returns the environment variable of a setting, with the word carbon only once."""
    return PREFIX + name.removeprefix("carbon_").upper()


def chosen_text(name: str, environment: Mapping[str, str]) -> str | None:
    """Returns the text of a setting's variable; ``None`` if it is unset or empty."""
    return environment.get(variable_of(name), "").strip() or None


def read_variable(name: str, read: Callable[[str], T], environment: Mapping[str, str]) -> T | None:
    """Returns the value of a setting's variable; ``None`` if it is unset or empty.

    Raises:
        InvalidInputError: the variable holds no number, where one is read.
    """
    text = chosen_text(name, environment)
    if text is None:
        return None
    try:
        return read(text)
    except ValueError:
        raise InvalidInputError(f"{variable_of(name)} is {text!r}; give a number.") from None


def _number(name: str, environment: Mapping[str, str]) -> float | None:
    return read_variable(name, float, environment)
