"""Powers over time whose energy is known exactly, by integration on paper."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Constant:
    """The same power for ever."""

    watts: float

    def power_w(self, time_s: float) -> float:  # noqa: ARG002
        return self.watts

    def energy_joules(self, time_s: float) -> float:
        return self.watts * time_s


@dataclass(frozen=True)
class Ramp:
    """A straight line from one power to another, then that power."""

    start_w: float
    end_w: float
    duration_s: float

    def power_w(self, time_s: float) -> float:
        fraction = min(time_s / self.duration_s, 1.0)
        return self.start_w + (self.end_w - self.start_w) * fraction

    def energy_joules(self, time_s: float) -> float:
        inside_s = min(time_s, self.duration_s)
        mean_w = (self.start_w + self.power_w(inside_s)) / 2
        return mean_w * inside_s + self.end_w * (time_s - inside_s)


@dataclass(frozen=True)
class SquareWave:
    """Half a period at a high power, half a period at a low one, and so on."""

    high_w: float
    low_w: float
    period_s: float

    def power_w(self, time_s: float) -> float:
        return self.high_w if time_s % self.period_s < self.period_s / 2 else self.low_w

    def energy_joules(self, time_s: float) -> float:
        num_periods, rest_s = divmod(time_s, self.period_s)
        mean_w = (self.high_w + self.low_w) / 2
        high_s = min(rest_s, self.period_s / 2)
        return (
            num_periods * self.period_s * mean_w
            + high_s * self.high_w
            + (rest_s - high_s) * self.low_w
        )


Power = Constant | Ramp | SquareWave
