"""Tracking in a rank that does not measure: another one of its node does, for all of them."""


class IdleTracking:
    """Takes what a block marks and does nothing with it."""

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
        """Does nothing: the budget is the run's, and another rank writes to that."""

    def tell_budget(self) -> None:
        """Does nothing."""
