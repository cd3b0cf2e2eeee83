"""``mlflow_carbon.compare``: the command's comparison as a frame."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from mlflow_carbon.accounting.emissions import validate_pue
from mlflow_carbon.contract import keys
from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.grid.intensity import check_lookup, given_intensity
from mlflow_carbon.reporting.compare import compare_runs
from mlflow_carbon.reporting.region_prices import recorded_set, region_prices
from mlflow_carbon.reporting.run_groups import tag_names
from mlflow_carbon.store.access import open_client
from mlflow_carbon.store.runs import read_exported_runs, read_runs

_logger = logging.getLogger("mlflow.carbon")


def compare(
    experiments: Sequence[str] | None = None,
    *,
    group_by: Sequence[str] = (),
    filter: str = "",
    per: str | None = None,
    regions: Sequence[str] = (),
    month: str | None = None,
    pue: float | None = None,
    intensity_set: str | None = None,
    carbon_intensity_g_per_kwh: float | None = None,
    baseline: Mapping[str, object] | None = None,
    scale_to: float | None = None,
    include: Sequence[str] = (),
    pool: bool = False,
    sort: str | None = None,
    all_experiments: bool = False,
    from_parquet: Sequence[str | Path] = (),
    tracking_uri: str | None = None,
) -> pd.DataFrame:
    """Returns energy in kWh and CO2e in g of metered runs, a row for each group, unit and region.

    The columns are those of ``mlflow-carbon compare --format csv``. What a reader must know is
    logged, and in ``frame.attrs["notices"]``.

    Args:
        experiments: names; ``None`` takes MLFLOW_EXPERIMENT_NAME, else Default.
        group_by: parameters, tags or ``experiment`` that make a group.
        filter: what the runs must fit, in MLflow's syntax.
        per: only runs of this unit, or ``run`` for whole runs.
        regions: to price in; none keeps what each run recorded.
        month: of the intensity, ``2022-02``, or a year.
        pue: power usage effectiveness; ``None`` as recorded.
        intensity_set: the only set of intensities to look in.
        carbon_intensity_g_per_kwh: prices with this figure.
        baseline: adds each row's ratio to the group with these values: ``{"steps": 1000}``.
        scale_to: adds energy and CO2e of so many units.
        include: ``failed``, ``running``, ``partial``: runs that are not finished, too.
        pool: whether unlike runs may be in one group.
        sort: ``energy``, ``co2e`` or a column, ``-`` before it for the highest first.
        all_experiments: reads every experiment.
        from_parquet: files that ``mlflow-carbon export`` wrote, in place of a store.
        tracking_uri: ``None`` takes MLflow's own choice.

    Raises:
        InvalidInputError: an argument is out of range, or means nothing here.
        NoIntensityError: no carbon intensity is known.
        NoRunsError: no metered run is left.
        TrackingStoreError: the store cannot be read.
    """
    _check_prices(regions, month, pue, intensity_set, carbon_intensity_g_per_kwh)
    if experiments and all_experiments:
        raise InvalidInputError(
            "experiments are given, and all_experiments too; give one of them.",
            arguments=["experiments", "all_experiments"],
        )
    keys_used = tag_names([*group_by, *(baseline or ())])
    if from_parquet:
        if filter or include or tracking_uri:
            raise InvalidInputError(
                "from_parquet reads whole files of finished runs; leave out filter, include and "
                "tracking_uri."
            )
        files = [Path(name) for name in from_parquet]
        runs = read_exported_runs(files, experiment_names=experiments or (), group_by=keys_used)
    else:
        names = [] if all_experiments else list(experiments or default_experiments())
        runs = read_runs(
            open_client(tracking_uri),
            experiment_names=names,
            include=include,
            filter_string=filter,
            group_by=keys_used,
        )
    intensities, notices = region_prices(
        regions,
        month=month,
        intensity_set=intensity_set,
        carbon_intensity_g_per_kwh=carbon_intensity_g_per_kwh,
        preferred_set=recorded_set(runs),
    )
    compared = compare_runs(
        runs,
        group_by=group_by,
        intensities=intensities,
        pue=pue,
        per=per,
        pool=pool,
        scale_to=scale_to,
        baseline=None if baseline is None else {key: str(it) for key, it in baseline.items()},
        sort=sort,
    )
    told = [notice.replace("`", "") for notice in (*notices, *compared.notices)]
    for notice in told:
        _logger.warning("%s", notice)
    frame = compared.table.copy()
    frame.attrs["notices"] = told
    return frame


def default_experiments() -> tuple[str, ...]:
    """Returns the experiment that MLflow is set to."""
    return (os.environ.get("MLFLOW_EXPERIMENT_NAME", keys.DEFAULT_EXPERIMENT),)


def _check_prices(
    regions: Sequence[str],
    month: str | None,
    pue: float | None,
    intensity_set: str | None,
    own_g_per_kwh: float | None,
) -> None:
    """Refuses prices that contradict each other or are not known, before a store is asked.

    Raises:
        MlflowCarbonError: so.
    """
    if isinstance(regions, str):
        raise InvalidInputError(
            f"regions is {regions!r}; give a list of regions.", arguments=["regions"]
        )
    if pue is not None:
        validate_pue(pue)
    if own_g_per_kwh is None:
        if (month or intensity_set) and not regions:
            raise InvalidInputError("month and intensity_set need regions.", arguments=["regions"])
        check_lookup(regions, month=month, intensity_set=intensity_set)
        return
    given_intensity(own_g_per_kwh)
    if month or intensity_set or len(regions) > 1:
        raise InvalidInputError(
            "carbon_intensity_g_per_kwh is one intensity: it goes with one of regions at most, and "
            "with neither month nor intensity_set.",
            arguments=["carbon_intensity_g_per_kwh"],
        )
