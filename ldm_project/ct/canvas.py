"""A canvas that solids are painted on: a voxel holds each tissue by the share that it covers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Tubes:
    """Straight tubes with round ends, whose radius may change from the start to the end."""

    starts: np.ndarray  # (N, 3)
    ends: np.ndarray  # (N, 3)
    start_radii: np.ndarray  # (N,)
    end_radii: np.ndarray  # (N,)


def tube(points: ArrayLike, radii: ArrayLike) -> Tubes:
    """Returns the tube along a line of points ``(N, 3)``, with a radius at each."""
    places, widths = np.asarray(points, dtype=float), np.asarray(radii, dtype=float)
    return Tubes(places[:-1], places[1:], widths[:-1], widths[1:])


def _limited(values: np.ndarray) -> np.ndarray:
    """Returns values no less than 0 and no more than 1; `np.clip` of a few takes twice as long."""
    return np.minimum(np.maximum(values, 0.0), 1.0)


def joined(tubes: Sequence[Tubes]) -> Tubes:
    """Returns several tubes as one record."""
    return Tubes(
        np.concatenate([each.starts for each in tubes]),
        np.concatenate([each.ends for each in tubes]),
        np.concatenate([each.start_radii for each in tubes]),
        np.concatenate([each.end_radii for each in tubes]),
    )


class Canvas:
    """An image that solids are painted on, each over what is there.

    Args:
        axes: places of the voxels' centres along x, y and z, rising.
        voxel: the width of a soft edge, in the axes' units.
        background: the value that is there at first.
    """

    def __init__(
        self, axes: tuple[np.ndarray, np.ndarray, np.ndarray], *, voxel: float, background: float
    ) -> None:
        self.voxel = voxel
        self.image = np.full([len(axis) for axis in axes], background)
        self._place(axes)

    def move(self, x: float, y: float) -> None:
        """Moves the origin of what is painted from now on."""
        along_x, along_y, along_z = self._axes
        self._place((along_x - x, along_y - y, along_z))

    def _place(self, axes: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        self._axes = axes
        self.x, self.y, self.z = np.meshgrid(*axes, indexing="ij", sparse=True)

    def fill(self, share: np.ndarray, value: float | np.ndarray) -> None:
        """Paints a tissue where its share is above 0."""
        self.image += share * (value - self.image)

    def share(self, distance: np.ndarray) -> np.ndarray:
        """Returns the covered share of voxels at a distance outside (inside: negative) an edge."""
        return _limited(0.5 - distance / self.voxel)

    def ellipsoid(self, center: Sequence[float], radii: Sequence[float]) -> np.ndarray:
        """Returns each voxel's share inside an ellipsoid; of two radii, inside a cylinder along z.

        The distance to the edge is exact to first order.
        """
        offsets = [axis - at for axis, at in zip((self.x, self.y, self.z), center, strict=True)]
        of_axes = list(zip(offsets, radii, strict=False))
        level = np.sqrt(sum((offset / radius) ** 2 for offset, radius in of_axes))
        slope = np.sqrt(sum((offset / radius**2) ** 2 for offset, radius in of_axes))
        distance = level * (level - 1) / np.maximum(slope, 1e-6)
        # In the very middle, level and slope are both 0.
        return self.share(np.where(slope < 1e-6, -min(radii), distance))

    def tubes(self, tubes: Tubes) -> np.ndarray:
        """Returns each voxel's share inside of any of the tubes."""
        inside = np.zeros(self.image.shape)
        first, last = self._boxes(tubes)
        for index in np.flatnonzero((first < last).all(axis=1)):
            box = tuple(slice(*ends) for ends in zip(first[index], last[index], strict=True))
            start, along = tubes.starts[index], tubes.ends[index] - tubes.starts[index]
            x, y, z = self.x[box[0]], self.y[:, box[1]], self.z[:, :, box[2]]
            x, y, z = x - start[0], y - start[1], z - start[2]
            along_x, along_y, along_z = along.tolist()
            projected = x * along_x + y * along_y + z * along_z
            t = _limited(projected / max(float(along @ along), 1e-12))
            squared = np.square(x - t * along_x)
            squared += np.square(y - t * along_y)
            squared += np.square(z - t * along_z)
            radius, end_radius = float(tubes.start_radii[index]), float(tubes.end_radii[index])
            covered = self.share(np.sqrt(squared) - (radius + t * (end_radius - radius)))
            np.maximum(inside[box], covered, out=inside[box])
        return inside

    def _boxes(self, tubes: Tubes) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first voxel near each tube and the one after the last, each ``(N, 3)``."""
        margin = np.maximum(tubes.start_radii, tubes.end_radii)[:, None] + self.voxel
        low = np.minimum(tubes.starts, tubes.ends) - margin
        high = np.maximum(tubes.starts, tubes.ends) + margin
        first = [np.searchsorted(axis, low[:, i]) for i, axis in enumerate(self._axes)]
        last = [np.searchsorted(axis, high[:, i]) for i, axis in enumerate(self._axes)]
        return np.stack(first, axis=1), np.stack(last, axis=1)
