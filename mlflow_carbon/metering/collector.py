"""Reads every energy source at an interval, in Carbontracker's thread, and whenever it is asked."""

import sys
import threading
from collections.abc import Callable

from mlflow_carbon.contract import keys
from mlflow_carbon.metering.clock import Clock
from mlflow_carbon.metering.cpu_share import CpuShare
from mlflow_carbon.metering.machine import Machine
from mlflow_carbon.metering.other_load import LoadWatch
from mlflow_carbon.metering.readings import (
    STILL_S,
    Device,
    EnergySource,
    Snapshot,
    Tally,
    add_reading,
)
from mlflow_carbon.metering.stillness import StillnessWatch, sampled_source

# A sensor that was silent for more intervals than this did not observe the time between.
MAX_GAP_INTERVALS = 3

# Time between two searches for devices that have appeared since the start.
LOOK_AGAIN_S = 1.0


class Collector:
    """One component of Carbontracker's thread that stands for all devices.

    Carbontracker's thread is told to wait 0 s between rounds; the collector waits instead, on a
    condition, so that the start or end of a window can end the wait early. That one thread reads
    all devices, and every wait for it has a limit, so that a driver that hangs does not hold up
    the user's code. Only where no driver is asked does the start or end of a window read itself.
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
        self._reading = threading.RLock()  # one thread reads at a time
        self._num_asked = 0
        self._num_answered = 0
        self._is_stalled = False
        self._has_ended = False
        self._is_released = False
        self._snapshot = Snapshot(clock.monotonic_s(), {})
        self._listeners: list[Callable[[Snapshot], None]] = []
        self._share = CpuShare(clock)
        self._load = LoadWatch(clock)
        self._stillness = StillnessWatch()
        self._looked_s = clock.monotonic_s()
        self._problems: dict[str, str] = {}  # one sentence for each cause
        self.dead: set[Device] = set()  # whose counters have never moved, nor have a power sensor

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each fault in the measurement."""
        found = () if self.machine is None else self.machine.problems
        return tuple(dict.fromkeys((*found, *self._problems.values())))

    def add_problem(self, problem: str) -> None:
        """Keeps a sentence for ``problems``."""
        self._problems.setdefault(problem, problem)

    # Called by the user's threads.

    def listen(self, listener: Callable[[Snapshot], None]) -> None:
        """Calls ``listener``, which must not wait, after each reading in the sampling thread."""
        with self._condition:
            self._listeners = [*self._listeners, listener]

    def ignore(self, listener: Callable[[Snapshot], None]) -> None:
        """Stops calling ``listener``."""
        with self._condition:
            self._listeners = [other for other in self._listeners if other is not listener]

    @property
    def is_stalled(self) -> bool:
        """Whether the thread still owes an answer to an earlier request."""
        return self._is_stalled

    @property
    def last_snapshot(self) -> Snapshot:
        """The tallies after the latest reading; returned without waiting."""
        return self._snapshot

    def snapshot(self, timeout_s: float) -> Snapshot:
        """Reads every device now and returns the tallies; on a timeout, the previous tallies.

        After one timeout, callers get the previous tallies at once until the thread answers
        again. The snapshot has the time of this call, so the wait is not measured as work.
        """
        asked_s = self._clock.monotonic_s()
        if self._reads_at_once() and self._reading.acquire(timeout=timeout_s):
            try:
                self._snapshot = read = self._read(is_looking=False)
            finally:
                self._reading.release()
            return Snapshot(asked_s, read.tallies, read.ended_s, read.load)
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
                    ended_s = self._clock.monotonic_s()
                    last = self._snapshot
                    return Snapshot(asked_s, last.tallies, ended_s, last.load)
                if not self._has_ended:
                    self._is_stalled = True
                    self.add_problem(f"The devices did not answer within {timeout_s:g} s.")
            last = self._snapshot
            return Snapshot(self._clock.monotonic_s(), last.tallies, load=last.load)

    def end(self) -> None:
        """Wakes the thread so that it can end."""
        with self._condition:
            self._has_ended = True
            self._condition.notify_all()

    # Called by Carbontracker's thread.

    def available(self) -> bool:
        """Returns True: the devices are looked for later, in ``init``."""
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
        with self._reading:
            self._snapshot = snapshot = self._read()
        with self._condition:
            self._num_answered = num_asked
            self._is_stalled = False
            self._condition.notify_all()
            listeners = self._listeners
        for listener in listeners:
            try:
                listener(snapshot)
            except Exception as error:  # whatever a listener raises, the readings go on
                self.add_problem(f"A reading could not be used: {error!r}.")

    def shutdown(self) -> None:
        """Releases the devices and wakes every waiting thread."""
        if not self._has_ended:
            self.add_problem(f"The sampling thread ended: {sys.exc_info()[1]!r}.")
        self.end()
        releases = () if self.machine is None or self._is_released else self.machine.releases
        self._is_released = True
        for release in releases:
            try:
                release()
            except Exception as error:  # a driver may raise anything
                self.add_problem(f"Letting go of the devices failed: {error!r}.")

    def _reads_at_once(self) -> bool:
        """Returns whether no device can hang: the CPU's power is estimated from the kernel's times.

        The caller then reads them itself; asking the thread takes a trial of a sweep longer.
        """
        machine = self.machine
        if machine is None or self._is_stalled or self._has_ended:
            return False
        return all(source.method == keys.METHOD_TDP for source in machine.sources)

    def _read(self, *, is_looking: bool = True) -> Snapshot:
        """Reads every device, each with its own time; a device that fails keeps its last tally.

        Args:
            is_looking: whether to look for further devices, which may take long.
        """
        time_s = self._clock.monotonic_s()
        machine = self._current_machine(time_s) if is_looking else self.machine
        assert machine is not None
        is_shared = any(source.is_shared for source in machine.sources)
        share_fraction = self._share.fraction() if is_shared else None
        tallies: dict[Device, Tally] = dict(self._snapshot.tallies)
        for source in machine.sources:
            start_s = self._clock.monotonic_s()
            try:
                value = source.read()
            except Exception as error:  # a driver may raise anything
                self._note_failure(source, error)
                continue
            before = tallies.get(source.device)
            tally = add_reading(
                source,
                before,
                time_s=(start_s + self._clock.monotonic_s()) / 2,
                value=value,
                max_gap_s=MAX_GAP_INTERVALS * self._interval_s,
                share_fraction=share_fraction if source.is_shared else 1.0,
            )
            self._note_gap(source, before, tally, value)
            if tally is not None:
                tallies[source.device] = self._watched(source, tally)
        return Snapshot(time_s, tallies, self._clock.monotonic_s(), self._load.load())

    def _current_machine(self, time_s: float) -> Machine:
        """Returns the machine with the devices that have appeared since the last look."""
        assert self.machine is not None
        if time_s - self._looked_s >= LOOK_AGAIN_S:
            self._looked_s = time_s
            try:
                self.machine = self.machine.looked_at_again()
            except Exception as error:  # a driver may raise anything
                self.add_problem(f"Looking for further devices failed: {error!r}.")
        return self.machine

    def _watched(self, source: EnergySource, tally: Tally) -> Tally:
        """Returns the tally of a counter, or of the power sensor once the counter stands still."""
        if source.method != keys.METHOD_COUNTER or tally.last_s == tally.moved_s:
            self.dead.discard(source.device)
            return tally
        name = f"{source.component} {source.index}"
        try:
            sampled = self._stillness.sampled(source, tally)
        except Exception as error:  # a driver may raise anything
            self._note_failure(source, error)
            return tally
        if sampled is not None:
            assert self.machine is not None
            self.machine = self.machine.with_source(sampled_source(source))
            self.add_problem(
                f"{name}'s energy counter stood still while it drew {sampled.power_w:.0f} W: its "
                "power is sampled from then on."
            )
            return sampled
        has_fallen = tally.counter is not None and tally.counter.trusted is not None
        is_still = tally.last_s - tally.moved_s >= STILL_S
        is_dead = is_still and not self._stillness.knows_power(source.device)
        if is_dead and not has_fallen:  # a fall is reported elsewhere
            self._problems.setdefault(
                f"{name} is still", f"{name}'s energy counter stands still: no energy is known."
            )
        if is_dead and tally.num_moves == 0:
            self.dead.add(source.device)
        return tally

    def _note_failure(self, source: EnergySource, error: Exception) -> None:
        device = f"{source.component} {source.index}"
        self._problems.setdefault(
            device, f"{device} stopped answering: {type(error).__name__}: {error}."
        )

    def _note_gap(
        self, source: EnergySource, before: Tally | None, after: Tally | None, value: float
    ) -> None:
        """Adds a problem, once for each device, when a reading is not believed."""
        num_before = 0 if before is None else before.num_gaps
        if after is not None and after.num_gaps == num_before:
            return
        name = f"{source.component} {source.index}"
        if source.is_power:
            what = f"{name} showed {value:.6g} W, which it cannot draw: that is left out."
        else:
            assert before is not None
            assert before.counter is not None
            what = (
                f"{name}'s energy counter went from {before.counter.last.joules:.6g} J to "
                f"{value:.6g} J, which it cannot have counted: no energy is known for that time."
            )
        self._problems.setdefault(f"{name} gap", what)
