"""The grid of a study: its cells, each one training or synthesis to be measured."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ldm_project.parsing import size_text

TRAIN, SYNTH = "train", "synth"
UNIT_BY_TASK = {TRAIN: "iteration", SYNTH: "sample"}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training or synthesis: what is computed, and how much of it is measured.

    Attributes:
        task: ``train`` or ``synth``.
        dims: 2 or 3.
        size: of an image in pixels or voxels, one number per axis.
        model_size: name of the networks' widths.
        steps: denoising steps of a sample; ``None`` for a training.
        num_processes: that share the work; each has ``batch_size`` images.
        batch_size: images of an iteration in each process, or sampled together.
        num_windows: measured windows.
        num_warmup_windows: windows' worth of iterations done before them, or as many batches of
            samples of a few steps.
        units_per_window: iterations or samples of one window.
    """

    task: str
    dims: int
    size: tuple[int, ...]
    model_size: str
    steps: int | None = None
    num_processes: int = 1
    batch_size: int = 1
    num_windows: int
    num_warmup_windows: int
    units_per_window: int

    @property
    def unit(self) -> str:
        """What a figure of the cell is per."""
        return UNIT_BY_TASK[self.task]

    @property
    def name(self) -> str:
        """The cell's name, one of a kind in its grid: ``synth 3D 32x32x32 tiny 50 steps``."""
        parts = [self.task, f"{self.dims}D", size_text(self.size), self.model_size]
        if self.steps is not None:
            parts.append(f"{self.steps} steps")
        if self.num_processes > 1:
            parts.append(f"{self.num_processes} processes")
        return " ".join(parts)

    @property
    def num_units(self) -> int:
        """Units that the cell computes in all; a training's warm-up too, a synthesis's is short."""
        num_warmup_windows = self.num_warmup_windows if self.task == TRAIN else 0
        return (num_warmup_windows + self.num_windows) * self.units_per_window

    def to_dict(self) -> dict[str, object]:
        """Returns the cell as a dictionary that JSON can hold."""
        return {**vars(self), "size": list(self.size)}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "Cell":
        """Returns the cell of a dictionary from ``to_dict``."""
        size = values["size"]
        assert isinstance(size, list)
        return cls(**{**values, "size": tuple(size)})  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Axes:
    """What the cells of a grid may differ in, each axis about one base cell.

    Attributes:
        tasks: of ``train`` and ``synth``.
        sizes: image sizes by number of dimensions.
        reference_size: by number of dimensions: where model sizes, steps and processes differ.
        model_sizes: of the reference size.
        base_model_size: of every other cell.
        steps: of the syntheses of the reference size; every other synthesis has the most.
        num_processes: that train together at the reference size of the most dimensions.
        batch_size: images of an iteration in each process, or sampled together.
        num_windows: measured windows of each cell.
        num_warmup_windows: windows' worth of work before them.
        iterations_per_window: of a training; a window of a synthesis is one batch.
    """

    tasks: tuple[str, ...]
    sizes: Mapping[int, tuple[tuple[int, ...], ...]]
    reference_size: Mapping[int, tuple[int, ...]]
    model_sizes: tuple[str, ...]
    base_model_size: str
    steps: tuple[int, ...]
    num_processes: tuple[int, ...]
    batch_size: int
    num_windows: int
    num_warmup_windows: int
    iterations_per_window: int


def grid_of(axes: Axes) -> tuple[Cell, ...]:
    """Returns the cells of some axes, each once."""
    return tuple(dict.fromkeys(_cells(axes)))


def digest_of(cells: tuple[Cell, ...]) -> str:
    """Returns a digest that is equal for equal grids only."""
    return hashlib.blake2b(repr(cells).encode(), digest_size=8).hexdigest()


def _cells(axes: Axes) -> Iterator[Cell]:
    """Yields the cells axis by axis; those of several axes repeat."""
    for task in axes.tasks:
        for dims, sizes in axes.sizes.items():
            bases = {size: _base(axes, task, dims, size) for size in sizes}
            yield from bases.values()
            at_reference = bases[axes.reference_size[dims]]
            for model_size in axes.model_sizes:
                yield replace(at_reference, model_size=model_size)
            if task == SYNTH:
                for steps in axes.steps:
                    yield replace(at_reference, steps=steps)
            elif dims == max(axes.sizes):  # the paper compares them in 3D: Fig. 4a
                for num_processes in axes.num_processes:
                    yield replace(at_reference, num_processes=num_processes)


def _base(axes: Axes, task: str, dims: int, size: tuple[int, ...]) -> Cell:
    is_train = task == TRAIN
    return Cell(
        task=task,
        dims=dims,
        size=size,
        model_size=axes.base_model_size,
        steps=None if is_train else max(axes.steps),
        batch_size=axes.batch_size,
        num_windows=axes.num_windows,
        num_warmup_windows=axes.num_warmup_windows,
        units_per_window=axes.iterations_per_window if is_train else axes.batch_size,
    )
