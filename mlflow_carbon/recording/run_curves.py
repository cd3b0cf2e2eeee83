"""The points of a run's curves, window by window."""

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.assumptions import Assumptions
from mlflow_carbon.contract.curves import EnergyCurve
from mlflow_carbon.contract.totals import Total
from mlflow_carbon.contract.windows import Window, WindowColumns
from mlflow_carbon.recording.journal import Point
from mlflow_carbon.units import MILLISECONDS_PER_SECOND

SHORTEST_S = 0.001  # between time stamps, which are whole ms


class RunCurves:
    """The curves of one run, or of its first node."""

    def __init__(self, *, spent_kwh: float, is_node: bool) -> None:
        """Starts where an earlier part of the run has ended.

        Args:
            spent_kwh: energy of the earlier part.
            is_node: whether the run has several nodes.
        """
        self._energy = EnergyCurve(spent_kwh=spent_kwh, is_node=is_node)
        self._is_node = is_node
        self._newest_ms = 0  # time stamp of the last window

    def add(
        self,
        window: Window,
        *,
        step: int,
        end_unix_s: float,
        so_far: Total | None,
        windows: WindowColumns,
        assumptions: Assumptions,
        has_forecast: bool,
    ) -> tuple[dict[str, float], list[Point]]:
        """Returns the values at the end of a window, and the points at its start if it has any.

        A window begins at the step of the one before, so that MLflow draws it as a slope.

        Args:
            window: of the run's own unit.
            step: of the window.
            end_unix_s: its time stamp.
            so_far: the run's total up to now; ``None`` if nothing is measured.
            windows: all windows of the unit, this one included.
            assumptions: what turns energy into CO2e.
            has_forecast: whether the run has a chart of its forecast, too.
        """
        has_figure = window.unit != keys.UNIT_MINUTE  # else it is the power by another name
        points = self._energy.add(
            window,
            spent_kwh=None if so_far is None else so_far.energy_kwh,
            g_per_kwh=assumptions.g_per_kwh,
            per_unit_kwh=windows.energy_so_far() if has_figure else None,
        )
        values = points.at_end
        if so_far is not None and not (self._is_node or has_forecast):
            values |= second_component(so_far)
        start_unix_s = end_unix_s - max(window.duration_s, SHORTEST_S)
        # after the window before, which has the same step
        start_ms = max(round(start_unix_s * MILLISECONDS_PER_SECOND), self._newest_ms)
        self._newest_ms = round(end_unix_s * MILLISECONDS_PER_SECOND)
        begun = points.at_start.items()
        return values, [Point(key, value, start_ms, step - 1) for key, value in begun]


def total_step(last_step: int) -> int:
    """Returns the step of the run's total: one of its own, as charts draw one value a step.

    Args:
        last_step: of the points before it; 0 where there is none but at the start.
    """
    return last_step + 1 if last_step else 0


def second_component(total: Total) -> dict[str, float]:
    """Returns the energy of the second component, GPUs first; empty if there is one at most.

    A run has six charts at most, one of which is its forecast and one its models' figure.
    """
    names = sorted(total.energy_kwh_by_component)
    if len(names) < 2:
        return {}
    name = "gpu" if "gpu" in names else names[1]
    return {keys.component_curve_kwh(name): total.energy_kwh_by_component[name]}
