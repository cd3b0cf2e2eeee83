"""What a user says of a start that may wait: until when, and whose intensities decide."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mlflow_carbon.errors import InvalidInputError, NoIntensityError
from mlflow_carbon.grid.forecasts import fetch_forecast
from mlflow_carbon.grid.hourly import BASES, DIRECT, IntensitySeries, read_intensity_file
from mlflow_carbon.grid.price_settings import chosen_text
from mlflow_carbon.grid.providers import api_key_of
from mlflow_carbon.units import seconds_from_text, unix_s_from_iso8601

NOTHING_NAMED = "no hourly intensities are named; give intensity_file, or provider with region"


@dataclass(frozen=True, kw_only=True)
class WaitSettings:
    """Until when a start may wait, and by which intensities.

    Attributes:
        deadline: when the work must have ended: a time (ISO 8601), or how long from now (``12h``).
        duration: how long the work takes (``90min``); ``None`` as its last run took.
        region: that the provider is asked about.
        intensity_file: CSV with hourly intensities.
        intensity_basis: column of such a file, ``direct`` or ``lifecycle``.
        provider: whose forecast is asked for.
    """

    deadline: str
    duration: str | None = None
    region: str | None = None
    intensity_file: str | None = None
    intensity_basis: str = DIRECT
    provider: str | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked without the time of day.

        Raises:
            InvalidInputError: a value is not allowed.
        """
        self.deadline_s(0.0)
        if self.duration is not None:
            self._seconds("duration", self.duration)
        if self.intensity_basis not in BASES:
            raise InvalidInputError(
                f"intensity_basis is {self.intensity_basis!r}; use one of {', '.join(BASES)}.",
                arguments=["intensity_basis"],
            )
        if self.intensity_file is not None and self.provider is not None:
            raise InvalidInputError(
                "intensity_file and provider contradict each other; give one of them.",
                arguments=["intensity_file", "provider"],
            )

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], environment: Mapping[str, str]
    ) -> "WaitSettings":
        """Returns the settings of a backend's configuration.

        What it leaves open of region, file and provider is taken from ``MLFLOW_CARBON_REGION``,
        ``MLFLOW_CARBON_INTENSITY_FILE`` and ``MLFLOW_CARBON_PROVIDER``.

        Raises:
            InvalidInputError: the deadline is missing, or a key or value is not known.
        """
        known = [field.name for field in fields(cls)]
        for name, value in config.items():
            if name not in known:
                raise InvalidInputError(f"{name!r} is no setting; use {', '.join(known)}.")
            if not isinstance(value, str):
                raise InvalidInputError(f"{name} is {value!r}; give a text.")
        if "deadline" not in config:
            raise InvalidInputError('The deadline is missing; give it as {"deadline": "12h"}.')
        return cls(**config).with_environment(environment)

    def with_environment(self, environment: Mapping[str, str]) -> "WaitSettings":
        """Returns the settings with those of the environment for what they leave open."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        has_series = self.intensity_file is not None or self.provider is not None
        for name in ("region",) if has_series else ("region", "intensity_file", "provider"):
            values[name] = values[name] or chosen_text(name, environment)
        return WaitSettings(**values)

    def deadline_s(self, now_s: float) -> float:
        """Returns the time at which the work must have ended, in s since 1970.

        Raises:
            InvalidInputError: the deadline is neither a time nor a length of time.
        """
        try:
            return now_s + seconds_from_text(self.deadline)
        except ValueError:
            pass
        try:
            return unix_s_from_iso8601(self.deadline)
        except ValueError as error:
            raise InvalidInputError(
                f"deadline is {self.deadline!r}; give how long from now (12h, 90min, 2d) or a time "
                "(2022-02-01T13:00).",
                arguments=["deadline"],
            ) from error

    @property
    def duration_s(self) -> float | None:
        """How long the work takes, in s; ``None`` where the user does not say."""
        return None if self.duration is None else self._seconds("duration", self.duration)

    def intensities(
        self, *, now_s: float, environment: Mapping[str, str], base_url: str | None = None
    ) -> tuple[IntensitySeries | None, str]:
        """Returns the intensities to come, or ``None`` and the reason why none are known.

        Args:
            now_s: from when on, in s since 1970.
            environment: holds the key of a provider that needs one.
            base_url: of the provider's interface; ``None`` for the public one.

        Raises:
            InvalidInputError: the file cannot be read; there is no such provider, it does not
                know the region, or needs a key.
        """
        if self.intensity_file is not None:
            return read_intensity_file(self.intensity_file, basis=self.intensity_basis), ""
        if self.provider is None:
            return None, NOTHING_NAMED
        if self.region is None:
            raise InvalidInputError(
                "provider needs a region; give the one to ask about.", arguments=["region"]
            )
        try:
            key = api_key_of(self.provider, environment)
            found = fetch_forecast(
                self.provider, self.region, now_s=now_s, api_key=key, base_url=base_url
            )
        except NoIntensityError as error:
            return None, error.message.rstrip(".")
        return found, ""

    def _seconds(self, name: str, text: str) -> float:
        try:
            return seconds_from_text(text)
        except ValueError as error:
            raise InvalidInputError(
                f"{name} is {text!r}; give a length of time: 45s, 90min, 12h, 2d.",
                arguments=[name],
            ) from error
