"""Says on stderr how far a long reading has come, and nothing of a short one."""

import time
from collections.abc import Callable

import click

_SILENT_S = 2.0  # nobody asks before that
_BETWEEN_S = 5.0  # lines in a log that few would miss


class ReadingProgress:
    """Takes the number of runs read, and prints it now and then."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Starts with nothing read.

        Args:
            clock_s: returns the time in seconds.
        """
        self._clock_s = clock_s
        self._next_s = clock_s() + _SILENT_S

    def __call__(self, num_read: int, num_runs: int | None) -> None:
        """Prints a line if it is time for one.

        Args:
            num_read: runs read up to now.
            num_runs: runs to read; ``None`` where that is not known.
        """
        now_s = self._clock_s()
        if now_s < self._next_s:
            return
        self._next_s = now_s + _BETWEEN_S
        of_all = "" if num_runs is None else f" of {num_runs:,}"
        click.echo(f"Reading runs: {num_read:,}{of_all}.", err=True)
