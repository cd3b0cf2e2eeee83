"""Results as text tables for people, or as CSV and JSON for programs."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from mlflow_carbon.accounting.amounts import ENERGY_UNITS, MASS_UNITS
from mlflow_carbon.grid.intensity import price_label
from mlflow_carbon.inert import MAX_VALUE_CHARS, csv_cell, json_text
from mlflow_carbon.reporting.report import Column, Table
from mlflow_carbon.reporting.run_groups import METHOD
from mlflow_carbon.store.runs import words_of
from mlflow_carbon.units import grams_from_kg

ABSENT = "-"
MIXED = "mixed"
_NUM_DIGITS = 4  # significant, where no std says how many are meant
NUM_STD_DIGITS = 2
_MAX_DECIMALS = 9
_MAX_PRICES = 4  # named below a table of models
_PRINTS_AS_ONE = 1 - 0.5 * 10**-_NUM_DIGITS  # 0.99999 Wh is 1 Wh and not 1000 mWh


@dataclass(frozen=True)
class Scale:
    """A printed unit; a kWh or g value times ``factor`` is the number of ``symbol``."""

    symbol: str
    factor: float

    def text(self, value: float, num_digits: int = _NUM_DIGITS) -> str:
        """Returns the value to so many significant digits, without an exponent; ``-`` for NaN."""
        if math.isnan(value):
            return ABSENT
        if value == 0:
            return "0"
        scaled = value * self.factor
        exponent = int(f"{scaled:.{num_digits - 1}e}".partition("e")[2])  # after rounding
        num_decimals = num_digits - 1 - exponent
        return f"{scaled:.{min(max(num_decimals, 0), _MAX_DECIMALS)}f}"

    def text_with_std(self, value: float, std: float) -> str:
        """Returns ``12.34 ± 0.43``: two digits of the std, and the value to the same place."""
        if math.isnan(std) or std == 0:
            return self.text(value)
        std_text = self.text(std, NUM_STD_DIGITS)
        num_decimals = len(std_text.partition(".")[2])
        return f"{value * self.factor:.{num_decimals}f} ± {std_text}"


ENERGY_SCALES = tuple(Scale(symbol, factor) for symbol, factor in ENERGY_UNITS)
MASS_SCALES = tuple(Scale(symbol, factor) for symbol, factor in MASS_UNITS)
QUANTITIES = (("energy", "energy_kwh", ENERGY_SCALES), ("CO2e", "co2e_g", MASS_SCALES))


def records_frame(records: Iterable[Any]) -> pd.DataFrame:
    """Returns one row a record (a frozen dataclass), its fields as columns."""
    return pd.DataFrame([asdict(record) for record in records])


def to_csv(frame: pd.DataFrame) -> str:
    """Returns CSV with a head line, full precision, and nothing where nothing is known.

    Text that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    inert = frame.map(_inert_cell).rename(columns=lambda name: csv_cell(str(name)))
    return str(inert.to_csv(index=False, lineterminator="\n"))


def to_json(frame: pd.DataFrame) -> str:
    """Returns a JSON list of one object a row, full precision, null where nothing is known."""
    values = frame.map(_cut).astype(object).where(frame.notna(), None)
    text = json.dumps(values.to_dict("records"), indent=2, ensure_ascii=False)
    return json_text(text) + "\n"


def _inert_cell(value: Any) -> Any:
    return csv_cell(value) if isinstance(value, str) else value


def _cut(value: Any) -> Any:
    return value[:MAX_VALUE_CHARS] if isinstance(value, str) else value


def models_table(models: pd.DataFrame) -> Table:
    """Returns one line a model version, its emissions in a printed unit chosen for all.

    A column that holds nothing is left out, and so are PUE and region where there is one for all:
    the lines below the table name them.
    """
    energy = choose_scale(models["energy_kwh"], ENERGY_SCALES)
    masses_g = [grams_from_kg(kg) for kg in models["co2e_kg"]]
    lineages_g = [grams_from_kg(kg) for kg in models["lineage_co2e_kg"]]
    mass = choose_scale(masses_g, MASS_SCALES)
    columns = [
        Column("model", list(models["name"]), is_text=True),
        Column("version", list(map(str, models["version"]))),
        Column("band", list(models["band"]), is_text=True),
        Column(f"CO2e ({mass.symbol})", list(map(mass.text, masses_g))),
        Column(f"lineage ({mass.symbol})", list(map(mass.text, lineages_g))),
        Column(f"energy ({energy.symbol})", list(map(energy.text, models["energy_kwh"]))),
        Column("PUE", _pue_texts(models)),
        Column("region", list(models["region"]), is_text=True),
    ]
    columns = [it for it in columns if it.head not in ("PUE", "region") or len(set(it.texts)) > 1]
    return Table(tuple(without_empty(columns)), num_keys=2)


def _pue_texts(models: pd.DataFrame) -> list[str]:
    return [ABSENT if math.isnan(pue) else f"{pue:.6g}" for pue in models["pue"]]


def one_pue(models: pd.DataFrame) -> str:
    """Returns a line with the PUE of all models; empty where they have several."""
    pues = set(_pue_texts(models))
    return f"PUE {pues.pop()}.\n" if len(pues) == 1 else ""


def recorded_prices(models: pd.DataFrame) -> str:
    """Returns a line that says by which intensities models have their CO2e, the first few of them.

    So: ``CO2e by SE 35.82 g/kWh (2024, ember).``
    """
    energies_kwh = models["energy_kwh"] * models["pue"]
    labels = []
    for index, model in models.iterrows():
        if energies_kwh[index] > 0:
            g_per_kwh = grams_from_kg(model["co2e_kg"]) / energies_kwh[index]
            region, period, intensity_set = (
                model[name] if isinstance(model[name], str) else None
                for name in ("region", "period", "intensity_set")
            )
            labels.append(
                price_label(region, g_per_kwh, period=period, intensity_set=intensity_set)
            )
    different = list(dict.fromkeys(labels))
    others = len(different) - _MAX_PRICES
    told = different[:_MAX_PRICES] + ([f"{others} others"] if others > 0 else [])
    return f"CO2e by {', '.join(told)}.\n" if told else ""


def choose_scale(values: Iterable[float], scales: Sequence[Scale]) -> Scale:
    """Returns the largest printed unit in which the largest value is at least 1."""
    largest = max((value for value in values if not math.isnan(value)), default=0.0)
    fitting = [scale for scale in scales if largest * scale.factor >= _PRINTS_AS_ONE]
    return fitting[-1] if fitting else scales[0]


def key_columns(rows: pd.DataFrame, keys: Sequence[str]) -> list[Column]:
    """Returns the columns that name each row; numbers go to the right."""
    is_text = {
        key: bool((pd.to_numeric(rows[key], errors="coerce").isna() & rows[key].notna()).any())
        for key in keys
    }
    texts = {key: [key_text(key, cell) for cell in rows[key]] for key in keys}
    return [Column(short_name(key), texts[key], is_text=is_text[key]) for key in keys]


def key_text(key: str, value: object) -> str:
    """Returns a key's value as a person reads it: ``CPU estimated`` for a method of measuring."""
    if pd.isna(value):
        return ABSENT
    return words_of(str(value)) if key == METHOD else str(value)


def short_name(key: str) -> str:
    """Returns a key without the prefix of where it is: ``method``, ``entryPoint``, ``lr``."""
    for prefix in ("params.", "tags.", "carbon.", "mlflow.project.", "mlflow."):
        if key.startswith(prefix):
            return key.removeprefix(prefix)
    return key


def without_empty(columns: Iterable[Column]) -> list[Column]:
    """Returns the columns that hold something."""
    return [column for column in columns if any(text != ABSENT for text in column.texts)]
