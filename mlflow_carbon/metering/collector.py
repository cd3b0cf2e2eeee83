"""Reads every energy source in Carbontracker's thread, at an interval and whenever it is asked."""

import sys
import threading
from collections.abc import Callable

from mlflow_carbon.metering.clock import Clock
from mlflow_carbon.metering.machine import Machine
from mlflow_carbon.metering.readings import Device, EnergySource, Snapshot, Tally, add_reading

# A sensor that was silent for more intervals than this did not observe the time between.
MAX_GAP_INTERVALS = 3


class Collector:
    """One component of Carbontracker's thread that stands for all devices.

    Carbontracker's thread is told to wait 0 s between rounds; the wait is in here, on a
    condition, so that the edge of a window can end it early. All devices are read in that one
    thread and nobody waits for it without a limit: a driver that hangs holds up no user's code.
    """

    name = "mlflow_carbon"

    def __init__(
        self, find_machine: Callable[[], Machine], *, clock: Clock, interval_s: float
    ) -> None:
        self.power_usages: list[list[float]] = []  # read by Carbontracker
        self.machine: Machine | None = None
        self._find_machine = find_machine
        self._clock = clock
        self._interval_s = interval_s
        self._condition = threading.Condition()
        self._num_asked = 0
        self._num_answered = 0
        self._is_stalled = False
        self._has_ended = False
        self._is_released = False
        self._snapshot = Snapshot(clock.monotonic_s(), {})
        self._listeners: list[Callable[[Snapshot], None]] = []
        self._cpu_s: tuple[float, float] | None = None  # process tree, machine
        self._problems: dict[str, str] = {}  # one for each cause

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each thing that is not measured as it should be."""
        found = () if self.machine is None else self.machine.problems
        return tuple(dict.fromkeys((*found, *self._problems.values())))

    def add_problem(self, problem: str) -> None:
        """Keeps a sentence for ``problems``."""
        self._problems.setdefault(problem, problem)

    # What the user's threads call.

    def listen(self, listener: Callable[[Snapshot], None]) -> None:
        """Calls ``listener`` after each reading, in the sampling thread: it may wait for none."""
        with self._condition:
            self._listeners = [*self._listeners, listener]

    def ignore(self, listener: Callable[[Snapshot], None]) -> None:
        """Calls ``listener`` no more."""
        with self._condition:
            self._listeners = [other for other in self._listeners if other is not listener]

    @property
    def is_stalled(self) -> bool:
        """Whether the thread has left a question unanswered so far."""
        return self._is_stalled

    @property
    def last_snapshot(self) -> Snapshot:
        """The tallies after the latest reading, which is waited for by nobody."""
        return self._snapshot

    def snapshot(self, timeout_s: float) -> Snapshot:
        """Returns the tallies after a reading made now; the last ones if there is none in time.

        After one wait in vain nobody waits again until the thread has answered.
        """
        with self._condition:
            if not self._is_stalled and not self._has_ended:
                self._num_asked += 1
                ticket = self._num_asked
                self._condition.notify_all()
                self._clock.wait_for(
                    self._condition,
                    lambda: self._num_answered >= ticket or self._has_ended,
                    timeout_s,
                )
                if self._num_answered >= ticket:
                    return self._snapshot
                if not self._has_ended:
                    self._is_stalled = True
                    self.add_problem(f"The devices did not answer within {timeout_s:g} s.")
            return Snapshot(self._clock.monotonic_s(), self._snapshot.tallies)

    def end(self) -> None:
        """Wakes the thread so that it can end."""
        with self._condition:
            self._has_ended = True
            self._condition.notify_all()

    # What Carbontracker's thread calls.

    def available(self) -> bool:
        """Returns True: what is there shows when the thread looks for it."""
        return True

    def init(self) -> None:
        """Looks for the devices."""
        self.machine = self._find_machine()

    def devices(self) -> list[str]:
        """Returns the devices' names, for Carbontracker's log."""
        return []

    def collect_power_usage(self, epoch: int) -> None:  # noqa: ARG002  # Carbontracker's name
        """Waits until a reading is asked for or due, then reads every device."""
        with self._condition:
            self._clock.wait_for(
                self._condition,
                lambda: self._num_asked > self._num_answered or self._has_ended,
                self._interval_s,
            )
            num_asked = self._num_asked
            if self._has_ended:
                return
        snapshot = self._read()
        with self._condition:
            self._snapshot = snapshot
            self._num_answered = num_asked
            self._is_stalled = False
            self._condition.notify_all()
            listeners = self._listeners
        for listener in listeners:
            try:
                listener(snapshot)
            except Exception as error:  # whatever it does, the readings go on
                self.add_problem(f"A reading could not be used: {error!r}.")

    def shutdown(self) -> None:
        """Lets go of the devices; nobody is kept waiting any more."""
        if not self._has_ended:
            self.add_problem(f"The sampling thread ended: {sys.exception()!r}.")
        self.end()
        releases = () if self.machine is None or self._is_released else self.machine.releases
        self._is_released = True
        for release in releases:
            try:
                release()
            except Exception as error:  # a driver may raise anything
                self.add_problem(f"Letting go of the devices failed: {error!r}.")

    def _read(self) -> Snapshot:
        """Reads every device; one that fails keeps its last tally."""
        machine = self.machine
        assert machine is not None
        time_s = self._clock.monotonic_s()
        share_fraction = self._process_share_fraction(machine.sources)
        tallies: dict[Device, Tally] = dict(self._snapshot.tallies)
        for source in machine.sources:
            try:
                value = source.read()
            except Exception as error:  # a driver may raise anything
                self._note_failure(source, error)
                continue
            tallies[source.device] = add_reading(
                source,
                tallies.get(source.device),
                time_s=time_s,
                value=value,
                max_gap_s=MAX_GAP_INTERVALS * self._interval_s,
                share_fraction=share_fraction if source.is_shared else 1.0,
            )
        return Snapshot(time_s, tallies)

    def _note_failure(self, source: EnergySource, error: Exception) -> None:
        device = f"{source.component} {source.index}"
        self._problems.setdefault(
            device, f"{device} stopped answering: {type(error).__name__}: {error}."
        )

    def _process_share_fraction(self, sources: tuple[EnergySource, ...]) -> float:
        """Returns our process tree's share of the machine's CPU time since the last reading."""
        if not any(source.is_shared for source in sources):
            return 1.0
        before = self._cpu_s
        self._cpu_s = (self._clock.process_tree_cpu_s(), self._clock.machine_cpu_s())
        if before is None:
            return 0.0
        own_s, all_s = self._cpu_s[0] - before[0], self._cpu_s[1] - before[1]
        return min(max(own_s / all_s, 0.0), 1.0) if all_s > 0 else 0.0
