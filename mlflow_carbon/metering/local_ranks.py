"""All ranks of a launch on this node, found by their environment: their processes and GPUs."""

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from mlflow_carbon.metering.launch import find_place

CUDA_VARIABLE = "CUDA_VISIBLE_DEVICES"
NO_GPU = ("", "-1", "NoDevFiles")  # CUDA ignores these and what follows them

# Ranks start together; a rank that an elastic launcher starts later is found within this time.
REFRESH_S = 10.0

# Looking for new children may take 3 ms or more. A child counts from its own start once found.
LOOK_S = 0.25


@dataclass(frozen=True)
class CpuTimes:
    """CPU time of one process: its own, and that of the children it has waited for."""

    own_s: float
    waited_s: float
    parent_id: int

    @property
    def all_s(self) -> float:
        """The sum of both."""
        return self.own_s + self.waited_s


class LocalRanks:
    """This process and, in a launch, the other ranks of its node, each with its descendants."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._place = find_place(environment)
        self._roots: list[psutil.Process] = []
        self._found_s: float | None = None
        self._cpu_s: float = 0.0
        self._seen: dict[psutil.Process, CpuTimes] = {}
        self._looked_s: float | None = None

    def cpu_s(self) -> float:
        """Returns the CPU time that the ranks and their descendants have used; it never falls.

        A process that has ended counts as it was last seen, and in full once its parent has
        waited for it. A process whose parent ends first is still followed.
        """
        processes = set(self._seen)
        if self._looked_s is None or time.monotonic() - self._looked_s >= LOOK_S:
            processes |= {process for tree in self._trees().values() for process in tree}
            self._looked_s = time.monotonic()
        times = {process: _cpu_times(process) for process in processes}
        living = {process: found for process, found in times.items() if found is not None}
        self._cpu_s += _used_s(self._seen, living)
        self._seen = living
        return self._cpu_s

    def process_ids(self) -> set[int]:
        """Returns the ids of the ranks and their descendants."""
        return {process.pid for processes in self._trees().values() for process in processes}

    def merged(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Returns this process's environment with CUDA_VISIBLE_DEVICES of all the ranks.

        In a launch the variable counts as the launcher set it, as a rank may narrow its own
        later, which says nothing about the other ranks.
        """
        if self._place.num_ranks == 1:
            return dict(environment)
        shown = merged_gpus(_environment(root).get(CUDA_VARIABLE) for root in self._found_roots())
        others = {name: value for name, value in environment.items() if name != CUDA_VARIABLE}
        return others if shown is None else {**others, CUDA_VARIABLE: shown}

    def _trees(self) -> dict[psutil.Process, list[psutil.Process]]:
        roots = self._found_roots()
        if len(roots) == 1:
            return {roots[0]: [roots[0], *_children(roots[0])]}
        children: dict[int, list[psutil.Process]] = {}
        for process in psutil.process_iter():
            children.setdefault(_parent_id(process), []).append(process)
        return {root: _descendants(root, children) for root in roots}

    def _found_roots(self) -> list[psutil.Process]:
        """Returns this process and the other ranks; for a rank with a wrapper, the wrapper."""
        this = psutil.Process()
        if self._place.num_ranks == 1:
            return [this]
        if self._found_s is None or time.monotonic() - self._found_s > REFRESH_S:
            ranks = [this, *(p for p in psutil.process_iter() if p != this and self._is_rank(p))]
            rank_ids = {process.pid for process in ranks}
            self._roots = [process for process in ranks if _parent_id(process) not in rank_ids]
            self._found_s = time.monotonic()
        return self._roots

    def _is_rank(self, process: psutil.Process) -> bool:
        place = find_place(_environment(process))
        return place.num_ranks > 1 and (place.launch_key, place.node_index) == (
            self._place.launch_key,
            self._place.node_index,
        )


def merged_gpus(values: Iterable[str | None]) -> str | None:
    """Returns the value of CUDA_VISIBLE_DEVICES that shows every GPU of the given values."""
    merged: dict[str, None] = {}
    for value in values:
        if value is None:
            return None
        for identifier in (part.strip() for part in value.split(",")):
            if identifier in NO_GPU:
                break
            merged[identifier] = None
    return ",".join(merged)


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):  # it ended, or is not ours to see
        return {}


def _children(process: psutil.Process) -> list[psutil.Process]:
    """Returns a process's descendants; one that starts or ends now may be missing."""
    child_ids = _child_ids_on_linux(process.pid)
    try:
        if child_ids is None:
            return process.children(recursive=True)
    except psutil.Error:
        return []
    found = []
    for child_id in child_ids:
        with suppress(psutil.Error):
            child = psutil.Process(child_id)
            found += [child, *_children(child)]
    return found


def _child_ids_on_linux(process_id: int) -> list[int] | None:
    """Returns the ids of a process's children; ``None`` where the kernel has no list of them.

    psutil reads every process of the machine for that, which takes 3 ms or more.
    Source: proc(5), /proc/<pid>/task/<tid>/children, since Linux 3.5 with CONFIG_PROC_CHILDREN.
    """
    found: list[int] = []
    tasks = Path("/proc") / str(process_id) / "task"
    try:
        for task in tasks.iterdir():
            with suppress(ProcessLookupError):  # the thread has ended
                found += map(int, (task / "children").read_bytes().split())
    except (OSError, ValueError):
        return None
    return found


def _descendants(
    root: psutil.Process, children: Mapping[int, list[psutil.Process]]
) -> list[psutil.Process]:
    """Returns a process and all that descend from it."""
    found = [root]
    for process in found:  # grows as we go
        found += children.get(process.pid, [])
    return found


def _parent_id(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.Error:
        return 0


def _cpu_times(process: psutil.Process) -> CpuTimes | None:
    """Returns a process's CPU times; ``None`` if it has ended or is not ours to see."""
    if process.pid == os.getpid():  # one call of the kernel; psutil reads a file of 50 fields
        user_s, system_s, waited_user_s, waited_system_s, _ = os.times()
        return CpuTimes(user_s + system_s, waited_user_s + waited_system_s, os.getppid())
    try:
        if not process.is_running():  # its id may be another process's now
            return None
        with process.oneshot():
            times, parent_id = process.cpu_times(), process.ppid()
        return CpuTimes(
            own_s=float(times.user + times.system),
            waited_s=float(times.children_user + times.children_system),
            parent_id=parent_id,
        )
    except psutil.Error:
        return None


def _used_s(
    before: Mapping[psutil.Process, CpuTimes], now: Mapping[psutil.Process, CpuTimes]
) -> float:
    """Returns the CPU time that was used between two looks at the same processes.

    A parent that waits for a child adds the child's whole time to its own, so the time counted
    while the child lived is subtracted. Without a wait there is nothing to subtract.
    """
    counted_s: dict[int, float] = {}  # of the children that have ended, by their parent
    for process, times in before.items():
        if process not in now:
            counted_s[times.parent_id] = counted_s.get(times.parent_id, 0.0) + times.all_s
    used_s = 0.0
    for process, times in now.items():
        if process not in before:
            used_s += times.all_s
            continue
        old = before[process]
        waited_s = times.waited_s - old.waited_s - counted_s.get(process.pid, 0.0)
        used_s += times.own_s - old.own_s + max(waited_s, 0.0)
    return used_s
