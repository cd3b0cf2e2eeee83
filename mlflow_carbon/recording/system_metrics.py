"""Energy integrated from the system metrics that MLflow itself logs with a run."""

import math
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mlflow import MlflowClient
from mlflow.entities import Run

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.measurement import DeviceEnergy, Reading
from mlflow_carbon.metering.counter_steps import MAX_GPU_POWER_W
from mlflow_carbon.metering.load_curve import tdp_fraction
from mlflow_carbon.units import MILLISECONDS_PER_SECOND, kwh_from_joules

# Points further apart than this many usual distances have a gap between them.
GAP_FACTOR = 3.0

# Rounding may show a little more than the whole.
MAX_USE_PERCENT = 101.0

# MLFLOW_SYSTEM_METRICS_NODE_ID may stand between the prefix and the name.
_GPU_POWER = re.compile(r"system/(?:(?P<node>[^/]+)/)?gpu_(?P<index>\d+)_power_usage_watts")
_CPU_USE = re.compile(r"system/(?:(?P<node>[^/]+)/)?cpu_utilization_percentage")


@dataclass(frozen=True)
class PowerSeries:
    """The power of one device over time, oldest first.

    Attributes:
        power_w: NaN for an impossible logged value: the steps to and from it have no energy.
        num_odd: number of these values.
    """

    component: str
    index: int
    unix_s: tuple[float, ...]
    power_w: tuple[float, ...]
    num_odd: int = 0


@dataclass(frozen=True)
class Integral:
    """Energy of one device over the time its points cover; ``None`` if they cover no time."""

    energy_kwh: float | None
    covered_s: float
    num_gaps: int


@dataclass(frozen=True)
class Backfilled:
    """The energy of one run by its system metrics.

    Attributes:
        reading: of the whole run; its energy is that of the covered time alone.
        covered_s: length of the covered time, averaged over devices.
        num_gaps: number of stretches without points, over all devices.
        problems: what is left out, and why.
    """

    reading: Reading
    covered_s: float
    num_gaps: int
    problems: tuple[str, ...]


def has_system_metrics(run: Run) -> bool:
    """Returns whether a run has a system metric from which energy can be derived."""
    names = run.data.metrics
    return any(_GPU_POWER.fullmatch(key) or _CPU_USE.fullmatch(key) for key in names)


def read_backfilled(client: MlflowClient, run: Run, *, cpu_tdp_w: float | None) -> Backfilled:
    """Returns the energy of an ended run by its system metrics.

    Args:
        client: of the store.
        run: ended, with system metrics.
        cpu_tdp_w: design power of all CPUs of a node; ``None`` if unknown, which leaves the CPU
            out.
    """
    gpus = _read_series(client, run, _GPU_POWER, component="gpu", power_w_of=_gpu_power_w)
    cpus: list[PowerSeries] = []
    problems = []
    if cpu_tdp_w is None:
        problems.append("The CPU is left out: its model is not recorded; give its TDP.")
    else:
        cpus = _read_series(
            client,
            run,
            _CPU_USE,
            component="cpu",
            power_w_of=lambda percent: _cpu_power_w(percent, cpu_tdp_w),
        )
    return backfilled(
        [*gpus, *cpus],
        start_unix_s=run.info.start_time / MILLISECONDS_PER_SECOND,
        end_unix_s=run.info.end_time / MILLISECONDS_PER_SECOND,
        problems=problems,
    )


def backfilled(
    series: Sequence[PowerSeries],
    *,
    start_unix_s: float,
    end_unix_s: float,
    problems: Sequence[str] = (),
) -> Backfilled:
    """Returns the energy of an interval by these series; a device with one point has no energy.

    The coverage is the observed share of the time, averaged over devices; a CPU's power is
    assumed and counts 0.
    """
    duration_s = end_unix_s - start_unix_s
    devices, integrals, observed_s, left_out = [], [], [], list(problems)
    for one in series:
        integral = integrate(one.unix_s, one.power_w)
        if integral.energy_kwh is None:
            reason = "it has a single point" if len(one.unix_s) < 2 else "its values cannot be"
            left_out.append(f"{one.component} {one.index} is left out: {reason}.")
            continue
        if one.num_odd:
            left_out.append(
                f"{one.component} {one.index} shows {one.num_odd} impossible values: no energy is "
                "known beside them."
            )
        integrals.append(integral)
        observed_s.append(integral.covered_s if one.component == "gpu" else 0.0)
        devices.append(
            DeviceEnergy(one.component, one.index, integral.energy_kwh, keys.METHOD_BACKFILLED)
        )
    coverage_fraction, covered_s = None, 0.0
    if integrals and duration_s > 0:
        coverage_fraction = min(1.0, statistics.fmean(observed_s) / duration_s)
        covered_s = statistics.fmean(integral.covered_s for integral in integrals)
    reading = Reading(
        start_unix_s=start_unix_s,
        duration_s=duration_s,
        devices=tuple(devices),
        coverage_fraction=coverage_fraction,
        num_readings=max((len(one.unix_s) for one in series), default=0),
    )
    num_gaps = sum(integral.num_gaps for integral in integrals)
    return Backfilled(reading, covered_s, num_gaps, tuple(left_out))


def integrate(unix_s: Sequence[float], power_w: Sequence[float]) -> Integral:
    """Returns the energy under the points by trapezoids, the gaps between them left out.

    Args:
        unix_s: ascending times.
        power_w: power at these times; NaN where unknown, which is a gap too.
    """
    steps = [(start, end) for start, end in pairwise(zip(unix_s, power_w, strict=True))]
    lengths_s = [end[0] - start[0] for start, end in steps if end[0] > start[0]]
    if not lengths_s:
        return Integral(None, 0.0, 0)
    longest_s = GAP_FACTOR * statistics.median(lengths_s)
    energy_joules = covered_s = 0.0
    num_gaps = 0
    for (start_s, start_w), (end_s, end_w) in steps:
        if end_s - start_s > longest_s or math.isnan(start_w):
            num_gaps += 1
            continue
        if math.isnan(end_w):  # the step after this value counts the gap
            continue
        covered_s += end_s - start_s
        energy_joules += (start_w + end_w) / 2 * (end_s - start_s)
    energy_kwh = kwh_from_joules(energy_joules) if covered_s > 0 else None
    return Integral(energy_kwh, covered_s, num_gaps)


def _gpu_power_w(watts: float) -> float:
    """Returns a GPU's logged power in W; NaN if no GPU draws so much."""
    return watts if 0 <= watts <= MAX_GPU_POWER_W else math.nan


def _cpu_power_w(percent: float, tdp_w: float) -> float:
    """Returns a CPU's power in W by its use in percent; NaN if the use is outside 0 to 100."""
    return tdp_w * tdp_fraction(percent / 100) if 0 <= percent <= MAX_USE_PERCENT else math.nan


def _read_series(
    client: MlflowClient,
    run: Run,
    pattern: re.Pattern[str],
    *,
    component: str,
    power_w_of: Callable[[float], float],
) -> list[PowerSeries]:
    """Returns the series of all devices, numbered consecutively over the nodes."""
    found = [match for key in run.data.metrics if (match := pattern.fullmatch(key))]
    found.sort(key=lambda match: (match["node"] or "", int(match.groupdict().get("index", 0))))
    series = []
    for index, match in enumerate(found):
        history = client.get_metric_history(run.info.run_id, match.string)
        points = sorted(
            (point.timestamp / MILLISECONDS_PER_SECOND, power_w_of(point.value))
            for point in history
        )
        times, powers_w = tuple(time for time, _ in points), tuple(power for _, power in points)
        series.append(
            PowerSeries(component, index, times, powers_w, sum(map(math.isnan, powers_w)))
        )
    return series
