"""The whole footprint of a project as a table, a score and a sentence for a paper."""

import math
from collections import defaultdict

import pandas as pd

from mlflow_carbon.accounting.amounts import energy_text, mass_text
from mlflow_carbon.accounting.equivalents import equivalent, equivalents
from mlflow_carbon.contract import keys
from mlflow_carbon.reporting.everyday import quantity_text
from mlflow_carbon.reporting.report import Column, Report, Table
from mlflow_carbon.reporting.total import CountedRun, ProjectTotal
from mlflow_carbon.store.runs import told
from mlflow_carbon.units import kg_from_grams

STATUSES = ("FINISHED", "FAILED", "KILLED", "RUNNING", "SCHEDULED")
_WORDS = {
    "FINISHED": "finished",
    "FAILED": "failed",
    "KILLED": "killed",
    "RUNNING": "still running",
    "SCHEDULED": "scheduled",
}
_METHOD_WORDS = {
    keys.METHOD_COUNTER: "counted",
    keys.METHOD_SAMPLED: "sampled",
    keys.METHOD_TDP: "estimated from load and TDP",
    keys.METHOD_SIMULATED: "simulated",
    keys.METHOD_BACKFILLED: "integrated from MLflow's system metrics",
}


def total_frame(total: ProjectTotal) -> pd.DataFrame:
    """Returns one row an experiment and status: runs, those counted, kWh and g."""
    rows = []
    counted = {run.run_id for run in total.counted}
    groups: defaultdict[tuple[str, str], list[CountedRun]] = defaultdict(list)
    for run in total.runs:
        groups[run.experiment, run.status].append(run)
    for (experiment, status), runs in sorted(groups.items()):
        inside = [run for run in runs if run.run_id in counted]
        rows.append(
            {
                "experiment": experiment,
                "status": status,
                "num_runs": len(runs),
                "num_partial": sum(run.is_partial for run in runs),
                "num_counted": len(inside),
                "energy_kwh": math.fsum(run.energy_kwh or 0.0 for run in inside),
                "co2e_g": math.fsum(run.co2e_g or 0.0 for run in inside),
            }
        )
    return pd.DataFrame(rows)


def total_report(
    total: ProjectTotal,
    frame: pd.DataFrame,
    *,
    embodied_g: float | None = None,
    num_functional_units: float = 1.0,
    functional_unit: str = "project",
) -> Report:
    """Returns the answer, a table by status, the SCI, a sentence for a paper, what is not in it.

    Args:
        total: as read.
        frame: of the same.
        embodied_g: embodied emissions of the hardware during these runs; ``None``: not known.
        num_functional_units: how many of them the project has made.
        functional_unit: what one is.
    """
    answer = f"{mass_text(total.co2e_g)} CO2e, {energy_text(total.energy_kwh)}{_error(total)}\n\n"
    table = Table(
        (
            Column("experiment", list(frame["experiment"]), is_text=True),
            Column("status", list(frame["status"]), is_text=True),
            Column("runs", list(map(str, frame["num_runs"]))),
            Column("partial", list(map(str, frame["num_partial"]))),
            Column("counted", list(map(str, frame["num_counted"]))),
            Column("energy", list(map(energy_text, frame["energy_kwh"]))),
            Column("CO2e", list(map(mass_text, frame["co2e_g"]))),
        ),
        num_keys=2,
    )
    sci = _sci(
        total,
        embodied_g=embodied_g,
        num_functional_units=num_functional_units,
        functional_unit=functional_unit,
    )
    everyday = _everyday(total.co2e_g)
    return Report.of(
        answer,
        table,
        f"\n{sci}\n",
        f"\nFor a paper: {paper_sentence(total)}\n",
        *([] if everyday is None else [f"\n{everyday}\n"]),
        *(f"\n{sentence}\n" for sentence in notices(total)),
    )


def paper_sentence(total: ProjectTotal) -> str:
    """Returns a sentence for a paper on the project's emissions."""
    statuses = [run.status for run in total.runs]
    listed = [
        f"{statuses.count(status)} {_WORDS[status]}" for status in STATUSES if status in statuses
    ]
    how = ", ".join(f"{name.upper()} {method}" for name, method in _methods(total).items())
    num_runs = len(total.runs)
    runs = "The one metered run" if num_runs == 1 else f"All {num_runs} metered runs"
    return (
        f"{runs} of this work ({', '.join(listed)}) used "
        f"{energy_text(total.energy_kwh)} of IT energy{_error(total)} and emitted "
        f"{mass_text(total.co2e_g)} CO2e ({_price(total)}), by mlflow-carbon"
        f"{f' ({how})' if how else ''}; failed, killed and early-stopped runs are included, "
        "embodied emissions are not."
    )


def notices(total: ProjectTotal) -> list[str]:
    """Returns a sentence on each thing that is not in the total."""
    found = []
    num_inside = len(total.runs) - len(total.counted) - total.num_unmeasured
    if num_inside > 0:
        found.append(
            f"Not added again: {_runs(num_inside)} in the energy of others (parents, or runs "
            "metered at the same time)."
        )
    num_partial = sum(run.is_partial for run in total.counted)
    if num_partial:
        found.append(f"A lower bound: {_runs(num_partial)} killed or not yet ended.")
    if total.num_unmeasured:
        found.append(f"Not in it: {_runs(total.num_unmeasured)} of which no energy was measured.")
    if total.num_unmetered:
        found.append(f"Not in it: {_runs(total.num_unmetered)} not metered.")
    num_unpriced = sum(run.energy_kwh is not None and run.co2e_g is None for run in total.counted)
    if num_unpriced:
        found.append(f"No CO2e of {_runs(num_unpriced)}: no intensity is recorded; give --region.")
    if total.faults:
        found.append(f"Left out {told(total.faults)}")
    return found


def _runs(num_runs: int) -> str:
    return "1 run" if num_runs == 1 else f"{num_runs} runs"


def _error(total: ProjectTotal) -> str:
    bounds = total.bounds_kwh
    if bounds is None or bounds[0] == bounds[1]:
        return ""
    return f" ({energy_text(bounds[0])} to {energy_text(bounds[1])})"


def _methods(total: ProjectTotal) -> dict[str, str]:
    """Returns the method of each component in words."""
    words: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for run in total.counted:
        for component, method in run.methods.items():
            words[component][_METHOD_WORDS.get(method, method)] = None
    return {component: " or ".join(found) for component, found in sorted(words.items())}


def _price(total: ProjectTotal) -> str:
    labels = dict.fromkeys(
        f"{run.intensity.label}, PUE {run.pue:g}"
        for run in total.counted
        if run.intensity is not None and run.pue is not None
    )
    return "; ".join(labels) or "no price recorded"


def _sci(
    total: ProjectTotal,
    *,
    embodied_g: float | None,
    num_functional_units: float,
    functional_unit: str,
) -> str:
    """Returns the score of the Green Software Foundation, its parts named.

    Source: SCI specification 1.1 (ISO/IEC 21031:2024), SCI = (O + M) per R; SCI for AI counts
        the whole lifecycle, experiments that were given up included.
    """
    score_g = (total.co2e_g + (embodied_g or 0.0)) / num_functional_units
    unit = functional_unit if num_functional_units == 1 else f"{functional_unit}s"
    embodied = (
        "M (embodied) not known, so this is the operational part: --embodied-kg adds it"
        if embodied_g is None
        else f"M = {mass_text(embodied_g)} embodied, as given"
    )
    return (
        f"SCI for AI, (O + M) / R: {mass_text(score_g)} CO2e per {functional_unit}\n"
        f"  O = {mass_text(total.co2e_g)} operational; {embodied}; "
        f"R = {num_functional_units:g} {unit}"
    )


def _everyday(mass_g: float) -> str | None:
    """Returns everyday quantities; ``None`` below one phone charge, where they say nothing."""
    mass_kg = kg_from_grams(mass_g)
    if equivalent(mass_kg, "phone").quantity < 1:
        return None
    listed = [f"{quantity_text(it.quantity)} {it.factor.unit}" for it in equivalents(mass_kg)]
    return f"As much as {', or '.join(listed)} (sources: mlflow-carbon equivalents)."
