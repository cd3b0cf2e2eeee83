"""Measured energy and CO2e on every MLflow run and every registered model."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["MeterSettings", "track"]

if TYPE_CHECKING:
    from mlflow_carbon.metering.meter import MeterSettings
    from mlflow_carbon.tracking.track import track


def __getattr__(name: str) -> Any:
    """Imports the public names when they are first used: MLflow imports this at its own start."""
    if name == "track":
        from mlflow_carbon.tracking.track import track

        return track
    if name == "MeterSettings":
        from mlflow_carbon.metering.meter import MeterSettings

        return MeterSettings
    raise AttributeError(f"module 'mlflow_carbon' has no attribute {name!r}")
