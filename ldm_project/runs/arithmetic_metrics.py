"""Logs the arithmetic of a unit of work in TFLOP, and the energy of a TFLOP in J.

The keys are the project's own: ``ldm/tflop_per_<unit>`` and ``ldm/joules_per_tflop``.
"""

import mlflow
from mlflow import MlflowClient

from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.units import joules_from_kwh

JOULES_PER_TFLOP = "ldm/joules_per_tflop"


def tflop_per_unit(unit: str) -> str:
    """Returns the metric key of the arithmetic of one unit of work, in TFLOP."""
    return f"ldm/tflop_per_{unit}"


def log_arithmetic(run_id: str, *, unit: str, tflop: float) -> None:
    """Logs the TFLOP of one unit, and J per TFLOP where its energy was measured.

    Call it in the active run, after its metering has ended.
    """
    metrics = {tflop_per_unit(unit): tflop}
    energy = RunRecord.read(MlflowClient().get_run(run_id)).energy_per_unit.get(unit)
    if energy is not None:
        metrics[JOULES_PER_TFLOP] = joules_from_kwh(energy.energy_kwh) / tflop
    mlflow.log_metrics(metrics, run_id=run_id)
