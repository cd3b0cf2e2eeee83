"""Tells whether the process that wrote a file still lives, from any process and any clock."""

import functools
import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

if sys.platform != "win32":
    import fcntl

# File systems of one machine, where a lock shows to all processes. On any other file system a
# lock of another machine may not show.
LOCAL_FILE_SYSTEMS = (
    *("apfs", "aufs", "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "hfs"),
    *("jfs", "ntfs", "overlay", "overlayfs", "ramfs", "reiserfs", "rootfs", "tmpfs", "ufs"),
    *("vfat", "xfs", "zfs"),
)


@dataclass(frozen=True)
class ProcessIdentity:
    """The identity of a process among all processes of any machine and time.

    Attributes:
        machine: digest of the machine's name; ``None`` in files of older releases.
        pid: process id on the machine.
        create_time_s: start by the system clock, which may be set.
        boot: id of the boot and the PID namespace; ``None`` if the system has none.
        start_ticks: start in ticks since the boot, by a clock that cannot be set; ``None`` as
            for ``boot``.
        is_locked: whether the process could lock its file.
    """

    machine: str | None
    pid: int
    create_time_s: float
    boot: str | None = None
    start_ticks: int | None = None
    is_locked: bool = False

    @classmethod
    def read(cls, header: Mapping[str, Any]) -> "ProcessIdentity":
        """Returns the process that a journal's first line names.

        Raises:
            ValueError: the line names no process.
        """
        machine, process = header.get("machine"), header.get("process")
        boot, start_ticks = header.get("boot"), header.get("start_ticks")
        match process:
            case [int(pid), int() | float() as create_time_s] if 0 < pid < 2**31:
                return cls(
                    machine if isinstance(machine, str) else None,
                    pid,
                    float(create_time_s),
                    boot if isinstance(boot, str) else None,
                    start_ticks if isinstance(start_ticks, int) else None,
                    header.get("is_locked") is True,
                )
        raise ValueError("it names no process")


def this_process() -> ProcessIdentity:
    """Returns the identity of the calling process."""
    return _identity_of(os.getpid())


@functools.lru_cache(maxsize=1)  # asked for each run; a forked child has an id of its own
def _identity_of(pid: int) -> ProcessIdentity:
    create_time_s = float(psutil.Process(pid).create_time())
    return ProcessIdentity(machine_digest(), pid, create_time_s, _boot(), _start_ticks(pid))


def machine_digest() -> str:
    """Returns a digest that identifies this machine without revealing its name."""
    return hashlib.blake2b(platform.node().encode(), digest_size=8).hexdigest()


def lock(file: int) -> bool:
    """Locks an open file until it is closed or the process ends; returns whether that worked."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_alive(writer: ProcessIdentity, *, has_lock: bool, is_shared: bool) -> bool | None:
    """Returns whether a process lives; ``None`` where this machine cannot tell.

    Args:
        writer: the process that wrote the file.
        has_lock: whether we could lock the file, so that no other process holds the lock.
        is_shared: whether other machines write to the file's folder too.
    """
    is_here = writer.machine == machine_digest()
    if writer.is_locked:
        if not has_lock:  # the process has it, or children that it has left behind
            return not (is_here and _has_certainly_ended(writer))
        return False if is_here or not is_shared else None
    if is_shared and not is_here:
        return None
    if writer.start_ticks is not None and writer.boot == _boot():
        return not _has_certainly_ended(writer)
    try:
        return float(psutil.Process(writer.pid).create_time()) == writer.create_time_s
    except psutil.Error:
        return False


def is_shared_folder(folder: Path) -> bool:
    """Returns whether several machines may share a folder."""
    place = folder.resolve()
    mounts = [
        mount
        for mount in psutil.disk_partitions(all=True)
        if place.is_relative_to(mount.mountpoint)
    ]
    nearest = max(mounts, key=lambda mount: len(mount.mountpoint), default=None)
    return nearest is None or nearest.fstype.lower() not in LOCAL_FILE_SYSTEMS


def _has_certainly_ended(process: ProcessIdentity) -> bool:
    """Returns whether a process of this machine has surely ended."""
    boot = _boot()
    if boot is None or process.boot is None or process.start_ticks is None:
        return False
    if boot.split(" ")[0] != process.boot.split(" ")[0]:
        return True  # the machine has started anew
    return boot == process.boot and _start_ticks(process.pid) != process.start_ticks


def _boot() -> str | None:
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return None


def _start_ticks(pid: int) -> int | None:
    """Returns a process's start in ticks since the boot; ``None`` if there is no such process.

    Source: proc(5), /proc/<pid>/stat, field 22; the name in field 2 may hold spaces.
    """
    with suppress(OSError, ValueError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        return int(stat[stat.rindex(b")") + 2 :].split()[19])
    return None
