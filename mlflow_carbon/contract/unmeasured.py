"""The few tags of a run that ended before anything was measured: why, and how it was to be."""

from collections.abc import Mapping

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.assumptions import SETTINGS
from mlflow_carbon.contract.totals import ENDED, ENERGY

# They describe a figure: its price, and what it was measured on and with.
_OF_A_FIGURE = frozenset(
    {
        keys.TAG_REGION,
        keys.TAG_PERIOD,
        keys.TAG_INTENSITY_SET,
        keys.TAG_INTENSITY_SOURCE,
        keys.TAG_INTENSITY_BASIS,
        keys.TAG_INTENSITY_G_PER_KWH,
        keys.TAG_INTENSITY_FALLBACK,
        keys.TAG_PUE,
        *(keys.default_tag(setting) for setting in SETTINGS),
        keys.TAG_COMPONENTS,
        keys.TAG_CPU_TDP_SOURCE,
        keys.TAG_CPU_IDLE_POWER_W,
        keys.TAG_ATTRIBUTION,
        keys.TAG_HARDWARE,
        keys.TAG_TRACKER,
    }
)


def needed_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Returns the tags to write by one call; fewer for a run that begins and ends without a figure.

    Each tag costs a trial of a sweep 0.06 ms, and a trial may well be shorter than the step of a
    counter. What describes a figure says nothing where there is none; a part of the run that is
    measured later has tags of its own.

    Args:
        tags: all that are written; a run that has its first tags already gets them all.
    """
    state, _, figures = tags.get(keys.TAG_TOTAL, "").partition(" ")
    has_begun_before = keys.TAG_SCHEMA not in tags
    if has_begun_before or state != ENDED or f" {ENERGY}=" in figures:
        return dict(tags)
    return {key: text for key, text in tags.items() if key not in _OF_A_FIGURE}
