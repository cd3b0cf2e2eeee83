"""What a meter is to measure, and how to attribute the energy."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mlflow_carbon.contract import keys
from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.grid.price_settings import chosen_text

COMPONENTS = ("gpu", "cpu")
ALL_COMPONENTS = "all"
AUTO = "auto"


@dataclass(frozen=True)
class MeterSettings:
    """What is measured, and how.

    Attributes:
        components: ``all``, or ``gpu`` and ``cpu``, comma-separated; DRAM belongs to the CPU.
        attribution: ``whole_node`` counts all energy of the CPUs, ``process_share`` this process
            tree's share by CPU time, ``gpu_only`` leaves the CPUs out. ``auto`` counts a CPU that
            has a counter whole, and of an estimated one the share: a machine's whole load is
            nobody's run. GPUs are always counted whole.
        interval_s: time between two readings; further readings are taken at the ends of windows.
        cpu_tdp_w: TDP of one CPU package, in place of the table's.
        cpu_threads: hardware threads of one such package. A virtual machine shows only some of
            them, so there ``cpu_tdp_w`` is of no use without this number.
        sim_cpu_tdp_w: TDP of a simulated CPU, used instead of the real one.
        sim_cpu_util_fraction: its utilisation.
        sim_gpu_w: full power of a simulated GPU, used instead of the real ones.
        sim_gpu_util_fraction: its utilisation.

    Raises:
        InvalidInputError: a value is out of range.
    """

    components: str = ALL_COMPONENTS
    attribution: str = AUTO
    interval_s: float = 1.0
    cpu_tdp_w: float | None = None
    cpu_threads: int | None = None
    sim_cpu_tdp_w: float | None = None
    sim_cpu_util_fraction: float = 0.5
    sim_gpu_w: float | None = None
    sim_gpu_util_fraction: float = 0.5

    def __post_init__(self) -> None:
        if unknown := set(self.component_names) - set(COMPONENTS):
            raise InvalidInputError(
                f"components is {self.components!r}: {', '.join(sorted(unknown))!r} is unknown; "
                "use all, gpu, cpu or gpu,cpu."
            )
        if self.attribution not in (AUTO, *keys.ATTRIBUTIONS):
            known = ", ".join((*keys.ATTRIBUTIONS, AUTO))
            raise InvalidInputError(f"attribution is {self.attribution!r}; use one of {known}.")
        for name in ("interval_s", "cpu_tdp_w", "cpu_threads", "sim_cpu_tdp_w", "sim_gpu_w"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InvalidInputError(f"{name} is {value}; give a number above zero.")
        for name in ("sim_cpu_util_fraction", "sim_gpu_util_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInputError(f"{name} is {getattr(self, name)}; give 0 to 1.")

    def over_environment(self, environment: Mapping[str, str]) -> "MeterSettings":
        """Returns the settings; what is left to its default as the environment has it.

        Raises:
            InvalidInputError: a variable holds what no setting can be.
        """
        attribution, components = self.attribution, self.components
        if attribution == AUTO:
            attribution = chosen_text("attribution", environment) or AUTO
        if components == ALL_COMPONENTS:
            components = chosen_text("components", environment) or ALL_COMPONENTS
        return replace(self, attribution=attribution, components=components)

    @property
    def component_names(self) -> tuple[str, ...]:
        """The components asked for."""
        if self.components == ALL_COMPONENTS:
            return COMPONENTS
        return tuple(name.strip() for name in self.components.split(","))

    @property
    def measured_components(self) -> tuple[str, ...]:
        """The components whose energy is counted."""
        if self.attribution == "gpu_only":
            return tuple(name for name in self.component_names if name == "gpu")
        return self.component_names
