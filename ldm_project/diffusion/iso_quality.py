"""Which sampler and number of steps give images as good as 1000 steps for the least carbon."""

from collections.abc import Callable, Sequence
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
        """g CO2e for one image that is neither memorised nor unlike real ones, rejects included.

        ``None`` where nothing was measured, or every image was rejected.
        """
        return self.per_accepted_sample(self.co2e_g_per_sample)

    def per_accepted_sample(self, cost: float | None) -> float | None:
        """Returns the cost of an accepted image from that of an image; ``None`` without either."""
        if cost is None or self.quality.accepted_fraction == 0:
            return None
        return cost / self.quality.accepted_fraction


def carbon_of(setting: Setting) -> float | None:
    """Returns the g CO2e of an image; ``None`` where nothing could be measured."""
    return setting.co2e_g_per_sample


def iso_quality(
    settings: Sequence[Setting],
    reference: Setting,
    *,
    cost_of: Callable[[Setting], float | None] = carbon_of,
) -> Setting | None:
    """Returns the cheapest setting that is as good as the reference, itself included.

    As good means: its KID is no higher than the upper end of the reference's interval.

    Args:
        settings: to choose from.
        reference: whose quality is to be reached.
        cost_of: an image of a setting, rejected ones included.

    Returns:
        ``None`` where no such setting has a known cost and an accepted image.
    """
    as_good = [
        (cost, position)
        for position, setting in enumerate(settings)
        if (cost := setting.per_accepted_sample(cost_of(setting))) is not None
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
