"""Tracking in a rank that does not measure, because another rank measures the whole node."""

from mlflow_carbon.accounting.cheaper import Change


class IdleTracking:
    """Accepts the windows that a block marks, and does nothing with them."""

    must_stop = False

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id

    def open(self, unit: str | None = None) -> None:
        """Measures nothing."""

    def stop(self, window: None) -> None:
        """Does nothing."""

    def close(self, window: None, num_units: float) -> None:
        """Does nothing."""

    def expect(self, num_units: float, unit: str) -> None:
        """Does nothing."""

    def heed_budget(self) -> None:
        """Does nothing: another rank writes to the run and heeds its budget."""

    def tell_budget(self) -> None:
        """Does nothing."""

    def offer(self, change: Change) -> None:
        """Does nothing: another rank prints what the run cost."""

    @property
    def footprint(self) -> None:
        """Not known here: another rank measures."""
        return None
