"""Measured energy and CO2e on every MLflow run and every registered model."""

__version__ = "0.1.0"
