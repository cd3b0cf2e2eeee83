"""Windows of a framework's epochs or rounds, of which several short ones share a window."""

import time
from collections.abc import Callable

from mlflow_carbon.recording.marked_windows import MarkedWindow
from mlflow_carbon.recording.recorder import Recorder

# One reading is taken a second: a shorter window would say little and cost more.
MIN_DURATION_S = 1.0


class EpochWindows:
    """Turns the epochs or boosting rounds that a framework announces into windows of a run."""

    def __init__(
        self, recorder: Recorder, *, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._recorder = recorder
        self._monotonic_s = monotonic_s
        self._window: MarkedWindow | None = None
        self._opened_s = 0.0
        self._unit = ""
        self._num_epochs = 0
        self._is_within = False

    def begin(self, unit: str) -> None:
        """Notes that an epoch begins; within another unit's epoch it counts as part of that one."""
        if unit != self._unit and not self._is_within:
            self.flush()
        if self._window is None:
            self._window, self._unit = self._recorder.open(unit, is_automatic=True), unit
            self._opened_s = self._monotonic_s()
        self._is_within = True

    def end(self, unit: str) -> None:
        """Notes that the epoch has ended."""
        if self._window is None or unit != self._unit:
            return
        self._is_within = False
        self._num_epochs += 1
        if self._monotonic_s() - self._opened_s >= MIN_DURATION_S:
            self.flush()

    def training_ends(self, unit: str) -> None:
        """Writes the ended epochs; later work, such as saving, is in no window."""
        if unit == self._unit:
            self.flush()

    def flush(self) -> None:
        """Writes the ended epochs; a single epoch that still goes on is left out."""
        if self._window is not None:
            self._recorder.close(self._window, self._num_epochs)
        self._window, self._num_epochs, self._is_within = None, 0, False
