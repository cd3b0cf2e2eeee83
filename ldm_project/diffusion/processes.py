"""The processes that train or sample together: their ranks, and how they exchange values."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from ldm_project.diffusion.models import resolve_device
from ldm_project.diffusion.sharding import is_sharded
from ldm_project.errors import InvalidInputError

T = TypeVar("T")

# The others wait while the first one trains a VQ-GAN or registers a model. Gradients keep torch's
# own, shorter timeout: a process that is silent for so long there is lost.
PATIENCE = timedelta(days=2)

# A process that dies breaks the connections of the others. A process that fails waits before it
# reports: if another one caused the failure, the launcher ends this one in that time. The first
# process waits less, because it reports an error that all of them meet.
FIRST_WAIT_S, OTHERS_WAIT_S = 1.0, 10.0
DATABASE_WAIT_S = 0.02  # until a transaction that a signal came into is looked at again


@dataclass(frozen=True)
class Processes:
    """This process among those that work together; the defaults are one on its own.

    Attributes:
        rank: of this process, from 0.
        count: of all processes.
        talk: group that exchanges objects.
        notes: store of the launcher, which outlives processes that are started anew.
    """

    rank: int = 0
    count: int = 1
    talk: dist.ProcessGroup | None = None
    notes: Store | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process reads the data and writes the results of all."""
        return self.rank == 0

    @property
    def first_alone(self) -> "Processes":
        """The first process on its own, for work that it does while the others wait."""
        return replace(self, rank=0, count=1)

    def shared(self, value: Any = None) -> Any:
        """Returns the first process's value in every process; the others' arguments are ignored."""
        values = [value]
        if self.count > 1:
            dist.broadcast_object_list(values, src=0, group=self.talk)
        return values[0]

    def shared_file(self, path: Path, read: Callable[[Path], T]) -> T:
        """Returns, in every process, the content of the first one's file.

        Where every process sees the same file at its path, each reads it. Otherwise the first one
        sends the content, which memory must then hold several times.
        """
        stamp = _stamp(path)
        are_same = self.gathered(stamp == self.shared(stamp))
        if self.shared(all(are_same)):
            return read(path)
        return self.shared(read(path) if self.is_first else None)

    def meet(self) -> None:
        """Waits until all processes have come here."""
        if self.count > 1:
            dist.barrier(self.talk)

    def gathered(self, value: T) -> list[T]:
        """Returns the values of all processes by rank in the first one, an empty list in others."""
        if self.count == 1:
            return [value]
        values: list[Any] | None = [None] * self.count if self.is_first else None
        dist.gather_object(value, values, dst=0, group=self.talk)
        return values or []

    def share(self, items: Tensor) -> Tensor:
        """Returns this process's part of a batch ``(B, ...)``: every ``count``-th item."""
        return items[self.rank :: self.count]

    def mean(self, value: Tensor) -> Tensor:
        """Returns the mean over all processes of a tensor ``()``, on the device it is on."""
        if self.count == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.count

    def in_step(self, network: nn.Module) -> nn.Module:
        """Returns a network whose gradients are the mean over all processes."""
        if self.count == 1 or is_sharded(network):
            return network
        return DistributedDataParallel(network)

    def note(self, key: str, text: str) -> None:
        """Keeps a text for processes that the launcher may start anew."""
        if self.notes is not None:
            self.notes.set(key, text)

    def noted(self, key: str) -> str | None:
        """Returns the text that the launch has kept under a key, if there is one."""
        if self.notes is None or not self.notes.check([key]):
            return None
        return self.notes.get(key).decode()


ALONE = Processes()


def _stamp(path: Path) -> tuple[int, int] | None:
    """Returns the size and the time of a file; ``None`` where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def check_devices(device: str | None, num_here: int) -> None:
    """Checks that each process of this machine gets a GPU of its own, or that all use the CPU.

    Raises:
        InvalidInputError: there are fewer GPUs, or one is named.
    """
    resolved, num_gpus = resolve_device(device), torch.cuda.device_count()
    if resolved.type == "cpu":
        return
    if device is not None and ":" in device:
        raise InvalidInputError(
            f"device is {device!r}, but each of {num_here} processes takes a GPU of its own; use "
            f"device=cuda, and CUDA_VISIBLE_DEVICES to choose them."
        )
    if num_here > num_gpus:
        raise InvalidInputError(
            f"{num_here} processes need as many GPUs, but torch sees {num_gpus}; use "
            f"num_processes={num_gpus}, or device=cpu."
        )


@contextmanager
def joined_processes(device: str | None) -> Iterator[Processes]:
    """Joins the other processes of the launch for a block: by NCCL on GPUs, by Gloo on CPUs.

    Args:
        device: that the command computes on: ``cpu`` or ``cuda``; ``None`` takes GPUs where there
            are any.

    Raises:
        InvalidInputError: this machine has fewer GPUs than processes.
    """
    store, rank, count = next(rendezvous("env://"))
    try:
        processes = _join(device, store, rank, count)
        with ended_in_order(is_first=processes.is_first):
            yield processes
            processes.meet()  # none leaves before the first one has written what all have made
    except Exception:
        time.sleep(OTHERS_WAIT_S if rank else FIRST_WAIT_S)
        raise
    dist.destroy_process_group()


def _join(device: str | None, store: Store, rank: int, count: int) -> Processes:
    check_devices(device, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    is_cpu = resolve_device(device).type == "cpu"
    if not is_cpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # torch leaves the addresses of processes that have died where those started anew look for them.
    attempt = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    backend = "gloo" if is_cpu else "nccl"
    dist.init_process_group(backend, store=attempt, rank=rank, world_size=count)
    return Processes(rank, count, dist.new_group(backend="gloo", timeout=PATIENCE), store)


@contextmanager
def ended_in_order(*, is_first: bool) -> Iterator[None]:
    """Lets the first process close its run before it ends because another has failed."""

    def end(number: int, frame: FrameType | None) -> None:
        if _is_in_database(frame):
            # Broken off there, its lock would stay until the process ends, and keep us out too.
            again = threading.Timer(DATABASE_WAIT_S, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
        else:
            raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end) if is_first else None
    yield
    if is_first:
        signal.signal(signal.SIGTERM, before)


def _is_in_database(frame: FrameType | None) -> bool:
    """Returns whether code runs within a transaction of MLflow's store."""
    while frame is not None and "sqlalchemy" not in frame.f_globals.get("__name__", ""):
        frame = frame.f_back
    return frame is not None
