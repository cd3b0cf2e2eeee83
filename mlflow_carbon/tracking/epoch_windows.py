"""Windows of a framework's epochs: as many epochs together as last long enough to be measured."""

import time
from collections.abc import Callable

from mlflow_carbon import schema
from mlflow_carbon.metering.meter import Window
from mlflow_carbon.recording.recorder import Recorder

# One reading a second: a shorter window would say little, and a point for each would cost more.
MIN_DURATION_S = 1.0


class EpochWindows:
    """Puts the epochs that a framework announces into windows of a run."""

    def __init__(
        self, recorder: Recorder, *, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._recorder = recorder
        self._monotonic_s = monotonic_s
        self._window: Window | None = None
        self._opened_s = 0.0
        self._num_epochs = 0

    def begin(self) -> None:
        """Notes that an epoch begins."""
        if self._window is None:
            self._window = self._recorder.open()
            self._opened_s = self._monotonic_s()

    def end(self) -> None:
        """Notes that the epoch has ended."""
        if self._window is None:
            return
        self._num_epochs += 1
        if self._monotonic_s() - self._opened_s >= MIN_DURATION_S:
            self.flush()

    def flush(self) -> None:
        """Writes the epochs that have ended; one that goes on is left out if it is alone."""
        if self._window is not None:
            self._recorder.close(self._window, self._num_epochs, unit=schema.UNIT_EPOCH)
        self._window, self._num_epochs = None, 0
