"""Finds the sampler and step count that match the quality of 1000 steps for the least carbon."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ldm_project.diffusion.quality import Quality


@dataclass(frozen=True)
class Setting:
    """A sampler at a number of steps: the g CO2e of an image, and the quality of its images.

    Attributes:
        shortfalls: why its images are not shown to be as good as those of all steps.
    """

    sampler: str
    steps: int
    co2e_g_per_sample: float | None  # None: not measured
    quality: Quality
    shortfalls: tuple[str, ...] = ()

    @property
    def co2e_g_per_accepted_sample(self) -> float | None:
        """The g CO2e of one accepted image, with its share of the rejected images.

        An image is rejected if it is memorised or unlike every real one. ``None`` if the CO2e was
        not measured, or every image was rejected.
        """
        return self.per_accepted_sample(self.co2e_g_per_sample)

    def per_accepted_sample(self, cost: float | None) -> float | None:
        """Returns the cost of an accepted image, given an image's cost.

        ``None`` if the cost is ``None``, or if every image was rejected.
        """
        if cost is None or self.quality.accepted_fraction == 0:
            return None
        return cost / self.quality.accepted_fraction


def carbon_of(setting: Setting) -> float | None:
    """Returns the g CO2e of an image; ``None`` if it was not measured."""
    return setting.co2e_g_per_sample


def iso_quality(
    settings: Sequence[Setting],
    *,
    cost_of: Callable[[Setting], float | None] = carbon_of,
) -> Setting | None:
    """Returns the cheapest setting without shortfalls; the reference has none, so it may win.

    Args:
        settings: to choose from.
        cost_of: returns the cost of an image, accepted or not, of a setting.

    Returns:
        ``None`` if no such setting has both a known cost and an accepted image.
    """
    as_good = [
        (cost, position)
        for position, setting in enumerate(settings)
        if (cost := setting.per_accepted_sample(cost_of(setting))) is not None
        and not setting.shortfalls
    ]
    return settings[min(as_good)[1]] if as_good else None


def pareto_front(settings: Sequence[Setting]) -> list[Setting]:
    """Returns the settings that no other beats in both carbon and KID, the cheapest first."""
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
