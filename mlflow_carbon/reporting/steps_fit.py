"""Runs at several step counts, fitted group by group: both terms, and what fewer steps save."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd

from mlflow_carbon.accounting.steps_model import (
    Estimate,
    StepsModel,
    StepsPoint,
    fit_steps,
    proportional_saving_fraction,
)
from mlflow_carbon.errors import InvalidInputError, NoRunsError
from mlflow_carbon.inert import MAX_NAME_CHARS, shown
from mlflow_carbon.reporting.populations import mixed_populations, movers
from mlflow_carbon.reporting.report import Column, Report, Table
from mlflow_carbon.reporting.run_groups import column_of, usable_runs
from mlflow_carbon.reporting.tables import (
    ABSENT,
    ENERGY_SCALES,
    Scale,
    choose_scale,
    key_text,
    short_name,
)

_NUM_DIGITS = 3
_LEGEND = """\
fixed: before the first step (decoding, set-up). std: of the runs about the
line. proportional: 1 - to / from, as in the paper. Intervals: 95 %, least
squares over runs; two runs have none. When they hold: docs/statistics.md.
"""


@dataclass(frozen=True)
class Saving:
    """The share of energy saved by fewer steps: fitted, and if there were no fixed part."""

    from_steps: int
    to_steps: int
    fitted: Estimate
    proportional_fraction: float


@dataclass(frozen=True)
class StepsFit:
    """The fit of one group of runs, named by the values it was grouped by."""

    keys: Mapping[str, str]
    model: StepsModel
    savings: tuple[Saving, ...]


def fit_groups(
    runs: pd.DataFrame,
    *,
    steps_name: str,
    group_by: Sequence[str] = (),
    pairs: Sequence[tuple[int, int]] = (),
    pool: bool = False,
) -> tuple[tuple[StepsFit, ...], tuple[str, ...]]:
    """Returns the fit of every group and unit, and what a reader must know.

    Args:
        runs: as ``store.read_runs`` returns them.
        steps_name: the parameter that holds the number of steps.
        group_by: parameters or tags that make a group.
        pairs: step counts to go from and to; those measured, from more to fewer, come besides.
        pool: whether one line may be fitted to unlike runs; else their groups are split, and a
            group whose runs at equal steps differ in what moves their energy is not fitted.

    Raises:
        InvalidInputError: no group can be fitted, or a parameter holds no number of steps.
        NoRunsError: no run is left to fit.
    """
    columns = {name: column_of(runs, name) for name in group_by if name != steps_name}
    steps_column = column_of(runs, steps_name)
    usable, notices = usable_runs(
        runs,
        {**columns, steps_name: steps_column},
        [],
    )
    if usable.empty:
        raise NoRunsError(f"None of {len(runs)} metered runs can be fitted. {' '.join(notices)}")
    if not pool:
        columns |= mixed_populations(usable, [*columns.values(), "unit"])
    fits: list[StepsFit] = []
    reasons: list[str] = []
    grouped = usable.groupby([*columns.values(), "unit"], sort=True, dropna=False)
    for values, group in grouped:
        texts = (ABSENT if pd.isna(value) else str(value) for value in values)
        keys = dict(zip([*columns, "unit"], texts, strict=True))
        points = [
            StepsPoint(_num_steps(text, steps_name), float(energy_kwh), keys["unit"])
            for text, energy_kwh in zip(
                group[steps_column], group["energy_kwh_per_unit"], strict=True
            )
        ]
        found = movers(group, [steps_column])
        if found.names and not pool:
            reasons.append(
                f"{_label(keys)}: not fitted, as runs of equal {steps_name} differ in "
                f"{found.names[0]} ({found.values[0]}), which moves their energy. "
                f"`group_by` {found.names[0]} fits each apart, `pool` all together."
            )
            continue
        try:
            model = fit_steps(points)
        except InvalidInputError as error:
            reasons.append(f"{_label(keys)}: {error}")
        else:
            savings, untold = _savings(model, pairs)
            fits.append(StepsFit(keys, model, savings))
            reasons += [f"{_label(keys)}: {reason}" for reason in untold]
            if model.is_exact:
                reasons.append(
                    f"{_label(keys)}: all {model.num_runs} runs lie exactly on the line, so they "
                    "tell nothing of its error, and no interval is given (one of no width would "
                    "be false); copies of one run do so: measure more runs."
                )
            if model.fixed_kwh.value < 0:
                reasons.append(
                    f"{_label(keys)}: the fixed energy is below 0, which nothing can cost: a line "
                    "does not describe these runs, or they are too few or too unlike."
                )
    if not fits:
        raise InvalidInputError(" ".join(reasons))
    return tuple(fits), (*notices, *reasons)


def fits_frame(fits: Sequence[StepsFit]) -> pd.DataFrame:
    """Returns one row a group and pair of step counts: terms in kWh a unit, savings, bounds."""
    rows: list[dict[str, Any]] = []
    for fit in fits:
        model = fit.model
        terms = {
            **fit.keys,
            "num_runs": model.num_runs,
            "step_counts": _listed(model),
            **_bounded("fixed_kwh", model.fixed_kwh),
            **_bounded("step_kwh", model.step_kwh),
            "residual_std_kwh": model.residual_std_kwh,
            "confidence_fraction": model.confidence_fraction,
        }
        pairs = [
            {
                **terms,
                "from_steps": saving.from_steps,
                "to_steps": saving.to_steps,
                **_bounded("saving_fraction", saving.fitted),
                "proportional_saving_fraction": saving.proportional_fraction,
            }
            for saving in fit.savings
        ]
        rows += pairs or [terms]
    return pd.DataFrame(rows)


def fits_report(fits: Sequence[StepsFit]) -> Report:
    """Returns a table of the terms, one of the savings, and what they mean."""
    names = _shown_keys(fits)
    unit = "unit" if "unit" in names else shown(fits[0].keys["unit"], max_chars=MAX_NAME_CHARS)
    num_keys = len(names)
    return Report.of(
        f"Energy per {unit} = fixed + steps x step\n",
        Table(tuple(_term_columns(fits)), num_keys=num_keys),
        "\nEnergy saved by other steps\n",
        Table(tuple(_saving_columns(fits)), num_keys=num_keys),
        f"\n{_LEGEND}",
    )


def _savings(
    model: StepsModel, pairs: Sequence[tuple[int, int]]
) -> tuple[tuple[Saving, ...], list[str]]:
    """Returns the saving of each pair of step counts, and a reason for each pair without one."""
    measured = combinations(sorted(model.step_counts, reverse=True), 2)
    savings, reasons = [], []
    for from_steps, to_steps in dict.fromkeys([*measured, *pairs]):
        try:
            fitted = model.saving_fraction(from_steps, to_steps)
        except InvalidInputError as error:
            reasons.append(str(error))
            continue
        proportional = proportional_saving_fraction(from_steps, to_steps)
        savings.append(Saving(from_steps, to_steps, fitted, proportional))
    return tuple(savings), reasons


def _num_steps(text: str, steps_name: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise InvalidInputError(
            f"{steps_name} is {text!r} in a run, which is no number of steps; "
            "name the parameter that holds it.",
            arguments=["fit"],
        ) from error


def _shown_keys(fits: Sequence[StepsFit]) -> list[str]:
    """Returns the keys that name a fit; the unit only where there are several."""
    has_units = len({fit.keys["unit"] for fit in fits}) > 1
    return [name for name in fits[0].keys if name != "unit" or has_units]


def _key_columns(fits: Sequence[StepsFit], repeats: Sequence[int]) -> list[Column]:
    return [
        Column(
            short_name(name),
            [
                key_text(name, fit.keys[name])
                for fit, count in zip(fits, repeats, strict=True)
                for _ in range(count)
            ],
            is_text=True,
        )
        for name in _shown_keys(fits)
    ]


def _term_columns(fits: Sequence[StepsFit]) -> list[Column]:
    fixed = choose_scale([abs(fit.model.fixed_kwh.value) for fit in fits], ENERGY_SCALES)
    step = choose_scale([abs(fit.model.step_kwh.value) for fit in fits], ENERGY_SCALES)
    stds = [fit.model.residual_std_kwh for fit in fits]
    return [
        *_key_columns(fits, [1] * len(fits)),
        Column("runs", [str(fit.model.num_runs) for fit in fits]),
        Column("steps", [_listed(fit.model) for fit in fits], is_text=True),
        Column(f"fixed ({fixed.symbol})", [_with_bounds(f.model.fixed_kwh, fixed) for f in fits]),
        Column(f"step ({step.symbol})", [_with_bounds(f.model.step_kwh, step) for f in fits]),
        Column(
            f"std ({fixed.symbol})", [ABSENT if std is None else fixed.text(std, 2) for std in stds]
        ),
    ]


def _saving_columns(fits: Sequence[StepsFit]) -> list[Column]:
    percent = Scale("%", 100.0)
    savings = [saving for fit in fits for saving in fit.savings]
    return [
        *_key_columns(fits, [len(fit.savings) for fit in fits]),
        Column("from", [str(saving.from_steps) for saving in savings]),
        Column("to", [str(saving.to_steps) for saving in savings]),
        Column("saving (%)", [_with_bounds(saving.fitted, percent) for saving in savings]),
        Column(
            "proportional (%)",
            [percent.text(saving.proportional_fraction, _NUM_DIGITS) for saving in savings],
        ),
    ]


def _with_bounds(estimate: Estimate, scale: Scale) -> str:
    text = scale.text(estimate.value, _NUM_DIGITS)
    if estimate.low is None or estimate.high is None:
        return text
    low, high = (scale.text(bound, _NUM_DIGITS) for bound in (estimate.low, estimate.high))
    return f"{text} ({low} to {high})"


def _bounded(name: str, estimate: Estimate) -> dict[str, float | None]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _listed(model: StepsModel) -> str:
    return ",".join(map(str, model.step_counts))


def _label(keys: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {key_text(name, value)}" for name, value in keys.items())
