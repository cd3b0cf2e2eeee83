"""The packages that only pictures need, and the error where one is not installed."""

from importlib.util import find_spec

from mlflow_carbon.errors import PlotsMissingError

PLOT_PACKAGES = ("matplotlib", "seaborn")
REPORT_PACKAGES = (*PLOT_PACKAGES, "bokeh", "jinja2")


def require(packages: tuple[str, ...]) -> None:
    """Checks that packages are installed, without importing them.

    Raises:
        PlotsMissingError: one is not; the message says how to install it.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise PlotsMissingError(
            f"Pictures need {' and '.join(missing)}: pip install 'mlflow-carbon[plots]'."
        )
