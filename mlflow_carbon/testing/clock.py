"""A clock that stands still until the test moves it; nothing waits for real time."""

import threading
from collections.abc import Callable

START_UNIX_S = 1_700_000_000.0


class FakeClock:
    """Time, and the CPU time that the test says was used."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.machine_s = 0.0
        self.process_tree_s = 0.0
        self.patience_s: float | None = None  # real time to wait for devices that never answer
        self.on_advance: list[Callable[[float], None]] = []

    def advance(self, seconds: float) -> None:
        """Moves time on and lets the fakes that follow it catch up."""
        self.now_s += seconds
        for follow in self.on_advance:
            follow(self.now_s)

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_s(self) -> float:
        return START_UNIX_S + self.now_s

    def machine_cpu_s(self) -> float:
        return self.machine_s

    def process_tree_cpu_s(self) -> float:
        return self.process_tree_s

    def wait_for(
        self,
        condition: threading.Condition,
        predicate: Callable[[], bool],
        timeout_s: float,  # noqa: ARG002  # never up, however slow the machine that tests
    ) -> bool:
        return condition.wait_for(predicate, self.patience_s)
