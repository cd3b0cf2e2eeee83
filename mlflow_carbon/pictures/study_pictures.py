"""The figures of a study's report, or the reason why this machine cannot draw them."""

from mlflow_carbon.errors import PlotsMissingError
from mlflow_carbon.pictures.extra import PLOT_PACKAGES, require
from mlflow_carbon.reporting.study_cells import Study
from mlflow_carbon.reporting.study_findings import measured_cells
from mlflow_carbon.reporting.study_report import FIGURES_TITLE, Illustration


def study_illustrations(study: Study) -> list[Illustration]:
    """Returns the paper's four figures of a study; one that says why, without the packages."""
    try:
        require(PLOT_PACKAGES)
    except PlotsMissingError as error:
        return [Illustration("figures", FIGURES_TITLE, problem=error.message.rstrip("."))]
    from mlflow_carbon.pictures.study_figures import illustrations_of

    return illustrations_of(measured_cells(study))
