"""A view of an experiment in MLflow's UI: the carbon columns, and CO2e against steps.

MLflow keeps a view that is shared by its button *Views* as JSON in a tag of the experiment, and
opens it by ``viewStateShareKey`` in the address of the experiment's runs (3.17.2,
``mlflow/server/js``: ``useSharedExperimentViewState``). So one tag makes a link that shows the
columns to everybody; a version of MLflow that knows no such views ignores both.
"""

import functools
import json
from typing import Any

from mlflow import MlflowClient

from mlflow_carbon.contract import keys
from mlflow_carbon.tracking.patience import READ_TIMEOUT_S, within

SHARE_KEY = "carbon"
TAG = f"mlflow.sharedViewState.{SHARE_KEY}"
_CHARTS = "carbon-charts"  # of our own section
_DESCRIPTION = "attributes.`Description`"


@functools.cache
def share_view(tracking_uri: str, experiment_id: str, *, steps_parameter: str | None) -> bool:
    """Puts the view on an experiment unless it is there; asks the store once in a process.

    Args:
        tracking_uri: of the store.
        experiment_id: of the runs.
        steps_parameter: of the runs, where they have one; CO2e is drawn against it.

    Returns:
        Whether the experiment has the view; ``False`` too where the store refuses or is slow.
    """
    wanted = view_state(steps_parameter=steps_parameter)
    return bool(within(READ_TIMEOUT_S, lambda: _share(tracking_uri, experiment_id, wanted)))


def view_state(*, steps_parameter: str | None) -> dict[str, Any]:
    """Returns the view as MLflow's UI writes it; columns that no run has are not shown.

    Args:
        steps_parameter: that a first section of charts shows CO2e against.
    """
    widths = {_DESCRIPTION: 330}  # pixels: a number and its name fit
    if steps_parameter is not None:
        widths[f"params.`{steps_parameter}`"] = 90
    widths |= {_metric(keys.CO2E_G): 120, _metric(keys.ENERGY_KWH): 150}
    widths |= {_metric(keys.co2e_g_per_unit(unit)): 210 for unit in keys.UNITS}
    state: dict[str, Any] = {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": list(widths),
        "columnOrder": list(widths),
        "columnWidths": widths,
    }
    if steps_parameter is not None:
        state |= {
            "isAccordionReordered": True,  # else MLflow sorts the sections by name
            "compareRunSections": [_section(steps_parameter)],
            "compareRunCharts": [_chart(steps_parameter)],
        }
    return state


def _share(tracking_uri: str, experiment_id: str, wanted: dict[str, Any]) -> bool:
    client = MlflowClient(tracking_uri)
    known = client.get_experiment(experiment_id).tags.get(TAG)
    text = json.dumps(wanted)
    has_chart = "compareRunCharts" in wanted
    if known is None or (has_chart and known != text):  # a run without steps takes no chart away
        client.set_experiment_tag(experiment_id, TAG, text)
    return True


def _metric(key: str) -> str:
    return f"metrics.`{key}`"


def _section(steps_parameter: str) -> dict[str, Any]:
    return {
        "uuid": _CHARTS,
        "name": f"CO2e by {steps_parameter}",
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
        "columns": 1,
    }


def _chart(steps_parameter: str) -> dict[str, Any]:
    return {
        "uuid": f"{_CHARTS}-{steps_parameter}",
        "type": "SCATTER",
        "metricSectionId": _CHARTS,
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 100,
        "xaxis": {"key": steps_parameter, "type": "PARAM"},
        "yaxis": {"key": keys.CO2E_G, "type": "METRIC"},
    }
