"""Emissions as everyday quantities, as a table for people or a frame for programs."""

import textwrap
from collections.abc import Sequence

import pandas as pd

from mlflow_carbon.accounting.equivalents import (
    BudgetShare,
    Equivalent,
    budget_share,
    equivalents,
)
from mlflow_carbon.reporting.compare import ALWAYS_GROUPED_BY, Comparison
from mlflow_carbon.reporting.report import TEXT_WIDTH, Column, Report, Table
from mlflow_carbon.reporting.tables import ABSENT, Scale, key_columns
from mlflow_carbon.units import grams_from_kg, kg_from_grams

BUDGET_KIND = "budget"
BUDGET_UNIT = "% of a person's year"

_HEAD_BY_KIND = {
    "car": "car (km)",
    "phone": "phone charges",
    "flight": "flight (km)",
    "tree": "trees",
}
PEOPLE_PER_BILLION = 1e9
_PLAIN = Scale("", 1.0)
_NUM_DIGITS = 3
_LEAST_PLAIN = 0.001  # below it an exponent is easier to read than zeros


def footer_report(
    title: str, keys: Sequence[Column], masses_g: Sequence[float], *, is_asked: bool = False
) -> Report:
    """Returns masses in g as a table of everyday quantities, with the editions used.

    Masses that all lie below one phone charge are no everyday quantity: unless the table is asked
    for, the report is empty then.

    Args:
        title: what the masses are.
        keys: columns that name each mass.
        masses_g: one a line.
        is_asked: whether the reader asked for it.
    """
    if not is_asked and not any(mass_g >= _phone_charge_g() for mass_g in masses_g):
        return Report(())
    amounts = [equivalents(kg_from_grams(mass_g)) for mass_g in masses_g]
    budgets = [budget_share(kg_from_grams(mass_g)) for mass_g in masses_g]
    columns = list(keys)
    for position, head in enumerate(_HEAD_BY_KIND.values()):
        texts = [quantity_text(amount[position].quantity) for amount in amounts]
        columns.append(Column(head, texts))
    shares = [quantity_text(100 * budget.fraction) for budget in budgets]
    columns.append(Column("1.5 °C budget (%)", shares))
    editions = "; ".join(f"{item.factor.kind}: {item.factor.edition}" for item in equivalents(0))
    legend = (
        f"{editions}; budget: {_assumed(budget_share(0))}; trees: what they take up in ten years."
    )
    return Report.of(
        f"\n{title}\n",
        Table(tuple(columns), num_keys=len(keys)),
        f"\n{textwrap.fill(legend, TEXT_WIDTH)}\n"
        "Ranges and sources: mlflow-carbon equivalents KG\n",
    )


def comparison_footer(comparison: Comparison, *, is_asked: bool = False) -> Report:
    """Returns the mean CO2e of whole runs, group by group, as everyday quantities."""
    table = comparison.table
    names = [*comparison.group_by, *ALWAYS_GROUPED_BY]
    if table["unit"].nunique() == 1:
        names.remove("unit")
    return footer_report(
        "CO2e per run is as much as",
        key_columns(table, names),
        list(table["co2e_g_mean"]),
        is_asked=is_asked,
    )


def models_footer(models: pd.DataFrame, *, is_asked: bool = False) -> Report:
    """Returns the CO2e of each model version's training as everyday quantities."""
    masses_g = [grams_from_kg(kg) for kg in models["co2e_kg"]]
    return footer_report(
        "CO2e of the training is as much as",
        key_columns(models, ["name", "version"]),
        masses_g,
        is_asked=is_asked,
    )


def equivalents_frame(amounts: Sequence[Equivalent], share: BudgetShare) -> pd.DataFrame:
    """Returns one row a kind: quantity, its range over editions, edition, source and address."""
    rows: list[dict[str, str | float | None]] = [
        {
            "kind": amount.factor.kind,
            "quantity": amount.quantity,
            "unit": amount.factor.unit,
            "least": amount.least,
            "most": amount.most,
            "edition": amount.factor.edition,
            "kg_per_unit": amount.factor.kg_per_unit,
            "source": amount.factor.source,
            "url": amount.factor.url,
        }
        for amount in amounts
    ]
    rows.append(
        {
            "kind": BUDGET_KIND,
            "quantity": 100 * share.fraction,
            "unit": BUDGET_UNIT,
            "least": None,
            "most": None,
            "edition": _assumed(share),
            "kg_per_unit": share.budget_kg / 100,
            "source": "About 250 Gt from 2023: Lamboll et al. 2023",
            "url": "https://doi.org/10.1038/s41558-023-01848-5",
        }
    )
    return pd.DataFrame(rows)


def equivalents_report(frame: pd.DataFrame) -> Report:
    """Returns the rows of ``equivalents_frame`` as a table, then their editions and sources."""
    ranges = [
        ABSENT if pd.isna(least) else f"{quantity_text(least)} to {quantity_text(most)}"
        for least, most in zip(frame["least"], frame["most"], strict=True)
    ]
    table = Table(
        (
            Column("as much as", list(frame["kind"]), is_text=True),
            Column("quantity", [quantity_text(value) for value in frame["quantity"]]),
            Column("unit", list(frame["unit"]), is_text=True),
            Column("over editions", ranges),
        ),
        num_keys=1,
    )
    sources = "".join(
        f"{row['kind']}: {row['edition']}. {row['source']}. {row['url']}\n"
        for row in frame.to_dict("records")
    )
    return Report.of(table, f"\n{sources}")


def quantity_text(value: float) -> str:
    """Returns three significant digits, very small values with an exponent."""
    if 0 < value < _LEAST_PLAIN:
        return f"{value:.{_NUM_DIGITS - 1}e}"
    return _PLAIN.text(value, _NUM_DIGITS)


def _phone_charge_g() -> float:
    """Returns the CO2e of charging one phone, in g."""
    (phone,) = (item.factor for item in equivalents(0) if item.factor.kind == "phone")
    return grams_from_kg(phone.kg_per_unit)


def _assumed(share: BudgetShare) -> str:
    people = share.population / PEOPLE_PER_BILLION
    return f"{share.remaining_gt:g} Gt, {people:g} billion people, {share.years:g} years"
