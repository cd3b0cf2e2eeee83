"""The settings of a study: its grid and how it is run, parsed from the texts of its parameters."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ldm_project.config import AUTO, NEW, NUM_TRAIN_TIMESTEPS, TASKS, StudyConfig
from ldm_project.errors import InvalidInputError
from ldm_project.parsing import (
    check_size,
    given,
    resolve_count,
    resolve_preset,
    resolve_pue,
    resolve_size,
    size_text,
)
from ldm_project.study.cells import Axes, Cell, digest_of, grid_of
from ldm_project.study.presets import STUDIES


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """Settings of a study.

    Attributes:
        config: the texts behind the values.
        axes: of the grid.
        cells: of the grid.
        sampler: noise scheduler of every synthesis.
        region: of the electricity grid; ``None`` takes the project's default.
        month: of the carbon intensity; ``None`` takes the year's mean.
        pue: power usage effectiveness; ``None`` takes the project's default.
        seed: of networks, latents and noise.
        device: ``None`` takes a GPU where there is one.
        precision: ``fp32`` or ``bf16``; ``None`` takes the faster of the two.
        carbon_budget_kg: that the study may emit; ``None`` for any.
        resumed_run_id: parent run of the study to go on with; ``None`` looks for one.
        is_new: whether no unfinished study is gone on with.
        is_dry: whether the cells are only listed.
        slurm: parameters of each Slurm job, by name.
    """

    config: StudyConfig
    axes: Axes
    cells: tuple[Cell, ...]
    sampler: str
    region: str | None
    month: str | None
    pue: float | None
    seed: int
    device: str | None
    precision: str | None
    carbon_budget_kg: float | None
    resumed_run_id: str | None
    is_new: bool
    is_dry: bool
    slurm: Mapping[str, str | int]

    @property
    def is_launched(self) -> bool:
        """Whether each cell is a job of its own."""
        return self.config.launcher != AUTO

    @property
    def digest(self) -> str:
        """A digest that is equal for studies whose cells compute the same."""
        same = (self.sampler, self.seed, self.device, self.precision)
        return f"{digest_of(self.cells)}-{'-'.join(map(str, same))}"


def study_settings(config: StudyConfig) -> StudySettings:
    """Returns the settings of the ``study`` entry point.

    Raises:
        InvalidInputError: a value is not allowed; the message names the parameter, its value, and
            what is allowed.
    """
    axes = _axes(config)
    resumed = given(config.resume)
    return StudySettings(
        config=config,
        axes=axes,
        cells=grid_of(axes),
        sampler=config.sampler,
        region=given(config.region),
        month=given(config.month),
        pue=resolve_pue(config.pue),
        seed=config.seed,
        device=given(config.device),
        precision=given(config.precision),
        carbon_budget_kg=_budget_kg(config.carbon_budget_kg),
        resumed_run_id=None if resumed == NEW else resumed,
        is_new=resumed == NEW,
        is_dry=config.dry_run == "true",
        slurm=_slurm(config),
    )


def _slurm(config: StudyConfig) -> dict[str, str | int]:
    """Returns the parameters of Slurm jobs; whole numbers are numbers."""
    if config.max_retries < 0:
        raise InvalidInputError(f"max_retries is {config.max_retries}; give 0 or more.")
    if config.slurm != AUTO and config.launcher != "slurm":
        raise InvalidInputError(f"slurm is {config.slurm!r}, but launcher is {config.launcher!r}.")
    parameters: dict[str, str | int] = {}
    for item in _items(config.slurm):
        name, is_pair, value = item.partition("=")
        if not (name and is_pair and value):
            raise InvalidInputError(
                f"slurm has {item!r}; give name=value, as partition=gpu,gpus_per_node=1."
            )
        parameters[name.strip()] = int(value) if value.strip().isdigit() else value.strip()
    return parameters


def _axes(config: StudyConfig) -> Axes:
    """Returns the axes of the preset, with those that were given in their place."""
    if config.preset not in STUDIES:
        raise InvalidInputError(f"preset is {config.preset!r}; use one of {', '.join(STUDIES)}.")
    preset = STUDIES[config.preset]
    model_sizes = _items(config.model_sizes) or preset.model_sizes
    base_model_size = preset.base_model_size
    if base_model_size not in model_sizes:
        base_model_size = model_sizes[0]
    sizes = _sizes(config, preset, model_sizes)
    axes = Axes(
        tasks=_tasks(config.tasks),
        sizes=sizes,
        reference_size={dims: _reference(preset, dims, of) for dims, of in sizes.items()},
        model_sizes=model_sizes,
        base_model_size=base_model_size,
        steps=_counts("steps", config.steps, preset.steps),
        num_processes=_counts("num_processes", config.num_processes, preset.num_processes),
        batch_size=resolve_count("batch_size", config.batch_size, preset.batch_size),
        num_windows=resolve_count("windows", config.windows, preset.num_windows),
        num_warmup_windows=_warmup(config.warmup_windows, preset.num_warmup_windows),
        iterations_per_window=resolve_count(
            "iterations_per_window", config.iterations_per_window, preset.iterations_per_window
        ),
    )
    return _checked(axes)


def _checked(axes: Axes) -> Axes:
    """Returns the axes as they are.

    Raises:
        InvalidInputError: the networks cannot be built, or there is no spread to measure.
    """
    if axes.num_windows < 2:
        raise InvalidInputError(
            f"windows is {axes.num_windows}; one window has no spread, so give 2 or more."
        )
    if max(axes.steps) > NUM_TRAIN_TIMESTEPS:
        raise InvalidInputError(
            f"steps is {max(axes.steps)}; give 1 to {NUM_TRAIN_TIMESTEPS}, "
            "the number a model is trained for."
        )
    for cell in grid_of(axes):
        check_size(cell.size, cell.dims, cell.model_size)
    return axes


def _items(text: str) -> tuple[str, ...]:
    """Returns the items of a comma-separated text, each once; none for ``auto``."""
    if text == AUTO:
        return ()
    return tuple(dict.fromkeys(item.strip() for item in text.split(",")))


def _counts(name: str, text: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(resolve_count(name, item, 1) for item in _items(text)) or default


def _tasks(text: str) -> tuple[str, ...]:
    tasks = _items(text) or TASKS
    for task in tasks:
        if task not in TASKS:
            raise InvalidInputError(f"tasks is {task!r}; use {' or '.join(TASKS)}, or both.")
    return tasks


def _dims(text: str) -> tuple[int, ...]:
    for item in _items(text):
        if item not in ("2", "3"):
            raise InvalidInputError(f"dims is {item!r}; use 2 (slices), 3 (volumes), or 2,3.")
    return tuple(int(item) for item in _items(text))


def _sizes(
    config: StudyConfig, preset: Axes, model_sizes: tuple[str, ...]
) -> dict[int, tuple[tuple[int, ...], ...]]:
    """Returns the sizes by dimensions; 64 is 64x64 in 2D and 64x64x64 in 3D."""
    for model_size in model_sizes:
        resolve_preset(model_size)
    wanted = _dims(config.dims) or tuple(preset.sizes)
    texts = _items(config.sizes)
    if not texts:
        return {dims: preset.sizes[dims] for dims in wanted}
    # One number fits any number of dimensions; 64x64 says which.
    sizes = {
        dims: tuple(
            resolve_size(text, dims, model_sizes[0])
            for text in texts
            if text.lower().count("x") in (0, dims - 1)
        )
        for dims in wanted
    }
    unused = [text for text in texts if text.lower().count("x") + 1 not in (1, *wanted)]
    if unused:
        raise InvalidInputError(
            f"sizes has {unused[0]!r}, but dims is {','.join(map(str, wanted))}; "
            "give one number (64) or one per axis."
        )
    return {dims: of for dims, of in sizes.items() if of}


def _reference(preset: Axes, dims: int, sizes: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """Returns the size at which the other axes differ: the preset's, else the first one given."""
    usual = preset.reference_size[dims]
    return usual if usual in sizes else sizes[0]


def _warmup(text: str, default: int) -> int:
    return 0 if text == "0" else resolve_count("warmup_windows", text, default)


def _budget_kg(text: str) -> float | None:
    if text == AUTO:
        return None
    try:
        budget_kg = float(text)
    except ValueError:
        budget_kg = 0.0
    if not 0 < budget_kg < float("inf"):
        raise InvalidInputError(f"carbon_budget_kg is {text!r}; give kg CO2e above 0, or auto.")
    return budget_kg


def resolved(settings: StudySettings) -> dict[str, int | str]:
    """Returns each parameter by name, with the value that ``auto`` has where that is known."""
    axes = settings.axes
    sizes = (size_text(size) for of in axes.sizes.values() for size in of)
    values: dict[str, int | str] = asdict(settings.config)
    return values | {
        "tasks": ",".join(axes.tasks),
        "dims": ",".join(map(str, axes.sizes)),
        "sizes": ",".join(sizes),
        "model_sizes": ",".join(axes.model_sizes),
        "steps": ",".join(map(str, axes.steps)),
        "num_processes": ",".join(map(str, axes.num_processes)),
        "windows": str(axes.num_windows),
        "warmup_windows": str(axes.num_warmup_windows),
        "iterations_per_window": str(axes.iterations_per_window),
        "batch_size": str(axes.batch_size),
    }
