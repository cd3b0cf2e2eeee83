"""Counts the bytes that live beside each other while networks compute, on tensors without data."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# From this size on, glibc gives a tensor pages of its own, and gives them back: M_MMAP_THRESHOLD in
# man 3 mallopt. Smaller ones share a heap, and leave holes in it.
MAX_HEAP_BYTES = 2**25
# What glibc keeps of the free end of the heap: M_TRIM_THRESHOLD, twice the threshold above.
KEPT_HEAP_BYTES = 2 * MAX_HEAP_BYTES


@dataclass(frozen=True)
class Used:
    """What a kernel takes beside its tensors: while it computes, and for good (holes)."""

    while_computing_bytes: int = 0
    lost_bytes: int = 0


# Of the name of an operator, such as ``convolution``, its inputs and its outputs.
Workspace = Callable[[str, list[Tensor], list[Tensor]], Used]


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every tensor from its making to its end; a view and its base count once.

    Args:
        workspace: of each kernel.
        hole_fraction: of a small tensor's bytes that are lost to holes in the heap.
        kept_bytes: that the heap keeps of what it once had.

    Attributes:
        peak: most bytes of tensors, of the heap's holes and of a kernel's workspace since
            ``begin``.
    """

    def __init__(self, workspace: Workspace, hole_fraction: float, kept_bytes: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._workspace = workspace
        self._hole_fraction, self._kept_bytes = hole_fraction, kept_bytes
        self._heap_bytes, self._heap_peak, self._mapped_bytes = 0, 0, 0
        self._has_begun = False
        self._seen: dict[int, weakref.ref[Any]] = {}  # storages, by their address

    @property
    def now(self) -> int:
        """Bytes of the tensors that live, of holes, and of what the heap keeps."""
        heap_bytes = max(self._heap_bytes, min(self._heap_peak, self._kept_bytes))
        return self._mapped_bytes + heap_bytes

    def begin(self) -> None:
        """Begins the work: what was made before stays and leaves no holes."""
        self._has_begun = True
        self.peak = self.now

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Computes an operator's shapes and counts what it makes."""
        outputs = func(*args, **(kwargs or {}))
        made = _tensors(outputs)
        for tensor in made:
            self._see(tensor)
        name = func.overloadpacket.__name__
        used = self._workspace(name, _tensors(args), made)
        self.peak = max(self.peak, self.now + used.while_computing_bytes)
        self._add_to_heap(used.lost_bytes)
        return outputs

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, num_bytes = storage._cdata, storage.nbytes()
        if address in self._seen:
            return
        is_in_heap = num_bytes < MAX_HEAP_BYTES
        if self._has_begun and is_in_heap:
            num_bytes += round(self._hole_fraction * num_bytes)
        add = self._add_to_heap if is_in_heap else self._map

        def end(_: Any) -> None:
            add(-num_bytes)
            del self._seen[address]

        add(num_bytes)
        self._seen[address] = weakref.ref(storage, end)

    def _add_to_heap(self, num_bytes: int) -> None:
        self._heap_bytes += num_bytes
        self._heap_peak = max(self._heap_peak, self._heap_bytes)

    def _map(self, num_bytes: int) -> None:
        self._mapped_bytes += num_bytes


@contextmanager
def counted(
    workspace: Workspace, *, hole_fraction: float = 0.0, kept_bytes: int = 0
) -> Iterator[LiveBytes]:
    """Makes tensors in a block shapes without data, and counts what they would take on a device.

    They stand on the CPU, so that a network takes the ways that it takes with data: on ``meta``,
    attention would hold its matrix of all pairs of positions.
    """
    with FakeTensorMode(), LiveBytes(workspace, hole_fraction, kept_bytes) as live:
        yield live


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
