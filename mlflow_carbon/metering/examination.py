"""What a meter can measure on this machine, how well, and what it will miss."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.measurement import MeterDescription, Reading
from mlflow_carbon.metering.cpu_power import GENERIC
from mlflow_carbon.metering.meter import Meter
from mlflow_carbon.metering.readings import OBSERVING_METHODS

# Long enough for two readings of every device; too short to speak of power.
GLANCE_S = 0.1

MEASURED = "measured"
PARTLY_MEASURED = "partly measured"
ESTIMATED = "estimated"
SIMULATED = "simulated"
NOT_MEASURABLE = "not measurable"


@dataclass(frozen=True)
class Examination:
    """What one look at the machine found.

    Attributes:
        description: what is measured and how.
        reading: energy of every device during the look; without devices nothing can be measured.
        missed: one sentence for each part of the machine that no figure will hold, with the way
            to mend it where there is one.
    """

    description: MeterDescription
    reading: Reading
    missed: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """How far the machine's energy is measured, in a word or two."""
        methods = {device.method for device in self.reading.devices}
        if not methods:
            return NOT_MEASURABLE
        if keys.METHOD_SIMULATED in methods:
            return SIMULATED
        if not methods & set(OBSERVING_METHODS):
            return ESTIMATED
        return PARTLY_MEASURED if keys.METHOD_TDP in methods else MEASURED


def examine(
    meter: Meter, *, duration_s: float = GLANCE_S, sleep: Callable[[float], None] = time.sleep
) -> Examination:
    """Returns what a meter finds; starts it, lets it measure for ``duration_s``, and stops it."""
    meter.start()
    window = meter.open_window()
    sleep(duration_s)
    reading = meter.close_window(window)
    meter.stop()
    return Examination(meter.description, reading, missed_parts(meter.description, reading))


def missed_parts(description: MeterDescription, reading: Reading) -> tuple[str, ...]:
    """Returns one sentence for each part of the machine that no figure will hold."""
    found = {device.component for device in reading.devices}
    asked_for = description.method_by_component
    sentences = []
    if "gpu" in asked_for and "gpu" not in found:
        sentences.append(
            "GPUs: NVML shows none. If there is one, install its driver; a container needs "
            "`--gpus all`."
        )
    if "cpu" not in asked_for:
        sentences.append("CPU and DRAM: left out by the settings.")
    elif asked_for["cpu"] == keys.METHOD_TDP:
        sentences.append(
            "CPU: no energy counter can be read, so its power is TDP × utilisation, without what "
            "it draws when idle. A virtual machine shows no counter; on Linux of your own try "
            "`sudo modprobe intel_rapl_msr`."
        )
        if description.cpu_tdp_source == GENERIC:
            sentences.append(
                "TDP: the CPU's name says no model, so a typical one is taken. Look up yours and "
                "give it: `cpu_tdp_w=` of MeterSettings, `--cpu-tdp-w` here."
            )
    if "cpu" in found and "dram" not in found:
        sentences.append("DRAM: no counter can be read.")
    sentences.append("Disks, network, fans and power supplies: never measured.")
    return tuple(sentences)
