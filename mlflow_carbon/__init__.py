"""Energy and CO2e on every MLflow run and every registered model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = ["MeterSettings", "autolog", "compare", "last_footprint", "track", "windows"]

if TYPE_CHECKING:
    from mlflow_carbon.metering.meter import MeterSettings
    from mlflow_carbon.reporting.comparing import compare
    from mlflow_carbon.tracking.autolog import autolog
    from mlflow_carbon.tracking.receipts import last_footprint
    from mlflow_carbon.tracking.track import track, windows

_HOMES = {
    "MeterSettings": "mlflow_carbon.metering.meter",
    "autolog": "mlflow_carbon.tracking.autolog",
    "compare": "mlflow_carbon.reporting.comparing",
    "last_footprint": "mlflow_carbon.tracking.receipts",
    "track": "mlflow_carbon.tracking.track",
    "windows": "mlflow_carbon.tracking.track",
}


def __getattr__(name: str) -> Any:
    """Imports the public names when they are first used: MLflow imports this at its own start."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mlflow_carbon' has no attribute {name!r}")
    import_module("mlflow")  # first: its import may switch autologging on, by these same files
    import_module("mlflow_carbon.tracking.mlflow_seams").require_supported()
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Returns the public names, those not imported yet too."""
    return sorted({*__all__, "__version__", "__all__", "__doc__"})
