"""Finds what a meter can measure on this machine, how well, and what it will miss."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.measurement import MeterDescription, Reading
from mlflow_carbon.metering.accelerators import NVIDIA
from mlflow_carbon.metering.cpu_power import GENERIC
from mlflow_carbon.metering.meter import Meter
from mlflow_carbon.metering.readings import OBSERVING_METHODS
from mlflow_carbon.units import watts_from_kwh

# Long enough for two readings of every device; too short to speak of power.
GLANCE_S = 0.1

MEASURED = "measured"
PARTLY_MEASURED = "partly measured"
ESTIMATED = "estimated"
SIMULATED = "simulated"
NOT_MEASURABLE = "not measurable"


@dataclass(frozen=True)
class FoundDevice:
    """One device that can be measured; ``power_w`` is ``None`` if its counter did not move."""

    component: str
    index: int
    method: str
    power_w: float | None


@dataclass(frozen=True)
class Examination:
    """The findings of one look at the machine.

    Attributes:
        description: what is measured and how.
        reading: energy of every device during the look; has no devices if none can be measured.
        missed: one sentence for each part of the machine that no figure will include, with a
            remedy where one exists.
    """

    description: MeterDescription
    reading: Reading
    missed: tuple[str, ...]

    @property
    def devices(self) -> tuple[FoundDevice, ...]:
        """Every device that is read, even if its counter did not move during the look."""
        reading, methods = self.reading, self.description.method_by_component
        read = [
            FoundDevice(it.component, it.index, it.method, _power_w(reading, it.energy_kwh))
            for it in reading.devices
        ]
        silent = [
            FoundDevice(component, index, methods.get(component, keys.METHOD_COUNTER), None)
            for component, index in reading.silent
        ]
        components = self.description.components
        return tuple(
            sorted((*read, *silent), key=lambda it: (components.index(it.component), it.index))
        )

    @property
    def verdict(self) -> str:
        """How far the machine's energy is measured, in a word or two."""
        methods = {device.method for device in self.devices}
        if not methods:
            return NOT_MEASURABLE
        if keys.METHOD_SIMULATED in methods:
            return SIMULATED
        if not methods & set(OBSERVING_METHODS):
            return ESTIMATED
        is_partly = keys.METHOD_TDP in methods or bool(self.description.unread)
        return PARTLY_MEASURED if is_partly else MEASURED


def _power_w(reading: Reading, energy_kwh: float) -> float | None:
    return watts_from_kwh(energy_kwh, reading.duration_s) if reading.duration_s > 0 else None


def examine(
    meter: Meter, *, duration_s: float = GLANCE_S, sleep: Callable[[float], None] = time.sleep
) -> Examination:
    """Starts a meter, lets it measure for ``duration_s``, stops it and returns its findings."""
    meter.start()
    window = meter.open_window()
    sleep(duration_s)
    reading = meter.close_window(window)
    meter.stop()
    return Examination(meter.description, reading, missed_parts(meter.description, reading))


def missed_parts(description: MeterDescription, reading: Reading) -> tuple[str, ...]:
    """Returns one sentence for each part of the machine that no figure will include."""
    found = {device.component for device in reading.devices}
    found |= {component for component, _ in reading.silent}
    sentences = [*_missed_gpus(description, found), *_missed_cpu(description)]
    if "cpu" in description.method_by_component and "dram" not in found:
        is_refused = any(name.startswith("dram") for name in description.unread)
        sentences.append(
            "DRAM: its counter is there and may not be read."
            if is_refused
            else "DRAM: this machine shows no counter of it."
        )
    sentences.append("Disks, network, fans and power supplies: never measured.")
    return tuple(sentences)


def _missed_gpus(description: MeterDescription, found: set[str]) -> list[str]:
    unread = [name for name in description.unread if "GPU" in name]
    if unread:
        reason = (
            "install NVIDIA's driver; a container needs `--gpus all`"
            if all(name.startswith(NVIDIA) for name in unread)
            else "only NVIDIA's GPUs can be read here, by NVML"
        )
        return [f"GPUs: {', '.join(unread)}: not read; {reason}."]
    if "gpu" in description.method_by_component and "gpu" not in found:
        return [
            "GPUs: NVML shows none. If there is one of NVIDIA's, install its driver; a container "
            "needs `--gpus all`."
        ]
    return []


def _missed_cpu(description: MeterDescription) -> list[str]:
    method = description.method_by_component.get("cpu")
    if method is None:
        return ["CPU and DRAM: left out by the settings."]
    if method == keys.METHOD_UNAVAILABLE:
        return ["CPU: no counter can be read and its power is unknown; see above."]
    if method != keys.METHOD_TDP:
        unread = [name for name in description.unread if name.startswith("cpu")]
        return (
            [f"CPU: {', '.join(unread)}: a package whose counter cannot be read."] if unread else []
        )
    sentences = [_estimated_cpu(description)]
    if description.cpu_tdp_source == GENERIC:
        sentences.append(
            "TDP: neither name nor family say which CPU this is, so a typical server's is taken. "
            "Look up yours and give the package's TDP and threads: `cpu_tdp_w=` and `cpu_threads=` "
            "of MeterSettings, `--cpu-tdp-w` and `--cpu-threads` here."
        )
    return sentences


def _estimated_cpu(description: MeterDescription) -> str:
    """Returns a text on why and how the CPU is estimated, and what may help."""
    how = "its power is estimated by its TDP and load, what it draws when idle included."
    if any("RAPL" in problem for problem in description.problems):
        return f"CPU: no package's counter can be read, see above; {how}"
    return (
        f"CPU: no energy counter is shown, so {how} A virtual machine shows none; on Linux of your "
        "own try `sudo modprobe intel_rapl_msr`."
    )
