"""Regions of the world by their names and codes."""

import difflib
import unicodedata
from functools import cache

from mlflow_carbon.errors import NoIntensityError
from mlflow_carbon.shipped_tables import shipped_rows

REGIONS_FILE = "regions.csv"
OWN_FIGURE = "carbon_intensity_g_per_kwh"  # the argument for the user's own figure


def resolve_region(name: str) -> str:
    """Returns the ISO 3166-1 alpha-2 code of a region, ``EU27`` or ``WORLD``.

    Args:
        name: country name, ISO code of two or three letters, or a common alias; any case.

    Raises:
        NoIntensityError: no region is called that; offers the nearest spellings.
    """
    codes = _code_by_name()
    folded = _folded(name)
    if folded in codes:
        return codes[folded]
    country = codes.get(_folded(name.partition("-")[0]))
    if "-" in name and country is not None:
        raise NoIntensityError(
            f"No carbon intensity for zone {name!r}: the sets here know no parts of a country. "
            f"Give {country} for the whole.",
            instead=OWN_FIGURE,
        )
    # a two-letter code with one wrong letter has a similarity of 0.5
    cutoff = 0.5 if len(folded) <= 3 else 0.6
    near = difflib.get_close_matches(folded, codes, n=6, cutoff=cutoff)
    nearest = list(dict.fromkeys(codes[spelling] for spelling in near))[:3]
    offer = f" Nearest: {', '.join(nearest)}." if nearest else ""
    raise NoIntensityError(
        f"No carbon intensity for region {name!r}.{offer} Give a country name or ISO code.",
        instead=OWN_FIGURE,
    )


def region_name(code: str) -> str:
    """Returns the name of the region with a code; any other text is returned as it is."""
    return _name_by_code().get(code, code)


def region_label(name: str) -> str:
    """Returns the code of a region; a name that is the user's own is returned as it is."""
    try:
        return resolve_region(name)
    except NoIntensityError:
        return name


@cache
def _name_by_code() -> dict[str, str]:
    return {row["iso2"]: row["name"] for row in shipped_rows(REGIONS_FILE)}


@cache
def _code_by_name() -> dict[str, str]:
    codes: dict[str, str] = {}
    for row in shipped_rows(REGIONS_FILE):
        for name in (row["iso2"], row["iso3"], row["name"], *row["aliases"].split(";")):
            if name:
                codes.setdefault(_folded(name), row["iso2"])
    return codes


def _folded(name: str) -> str:
    """Returns the letters and digits of a name, without case, accents and punctuation."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    return "".join(letter for letter in plain if letter.isalnum())
