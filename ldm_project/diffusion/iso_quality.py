"""Which sampler and number of steps give images as good as 1000 steps for the least carbon."""

from collections.abc import Sequence
from dataclasses import dataclass

from ldm_project.diffusion.quality import Quality


@dataclass(frozen=True)
class Setting:
    """A sampler at a number of steps: what an image costs in g CO2e, and how good it is."""

    sampler: str
    steps: int
    co2e_g_per_sample: float | None  # None: nothing could be measured
    quality: Quality

    @property
    def co2e_g_per_accepted_sample(self) -> float | None:
        """What an image costs that is neither memorised nor unlike real ones, rejects included.

        ``None`` where nothing was measured, or every image was rejected.
        """
        if self.co2e_g_per_sample is None or self.quality.accepted_fraction == 0:
            return None
        return self.co2e_g_per_sample / self.quality.accepted_fraction


def iso_quality(settings: Sequence[Setting], reference: Setting) -> Setting | None:
    """Returns the cheapest setting that is as good as the reference, itself included.

    As good means: its KID is no higher than the upper end of the reference's interval.

    Returns:
        ``None`` where no such setting has an accepted image.
    """
    as_good = [
        (cost, position)
        for position, setting in enumerate(settings)
        if (cost := setting.co2e_g_per_accepted_sample) is not None
        and setting.quality.kid.value <= reference.quality.kid.high
    ]
    return settings[min(as_good)[1]] if as_good else None


def pareto_front(settings: Sequence[Setting]) -> list[Setting]:
    """Returns the settings that none beats in both carbon and KID, the cheapest first."""
    priced = sorted(
        (
            (cost, setting.quality.kid.value, position)
            for position, setting in enumerate(settings)
            if (cost := setting.co2e_g_per_accepted_sample) is not None
        ),
    )
    front, best_kid = [], float("inf")
    for _, kid, position in priced:
        if kid < best_kid:
            front.append(settings[position])
            best_kid = kid
    return front
