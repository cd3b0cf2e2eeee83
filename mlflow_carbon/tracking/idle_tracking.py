"""Tracking in a rank that does not measure: another one of its node does, for all of them."""

from mlflow_carbon.metering.protocol import OpenWindow
from mlflow_carbon.metering.readings import Snapshot

_NO_WINDOW = OpenWindow(Snapshot(0.0, {}), 0.0)


class IdleTracking:
    """Takes what a block marks and does nothing with it."""

    must_stop = False

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id

    def open(self) -> OpenWindow:
        """Returns a window that nobody measures."""
        return _NO_WINDOW

    def close(self, window: OpenWindow, num_units: float) -> None:
        """Does nothing."""

    def expect(self, num_units: float) -> None:
        """Does nothing."""

    def heed_budget(self) -> None:
        """Does nothing: the budget is the run's, and another rank writes to that."""

    def tell_budget(self) -> None:
        """Does nothing."""
