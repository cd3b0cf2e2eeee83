"""Draws chest CT phantoms in Hounsfield units, each different, for use without any data."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Hounsfield units of the tissues in a chest CT.
AIR_HU, FAT_HU, MUSCLE_HU, LUNG_HU, BLOOD_HU = -1000.0, -100.0, 50.0, -830.0, 160.0
MARROW_HU, CORTEX_HU = 250.0, 600.0
NOISE_HU = 12.0
VESSELS_PER_LUNG = 8


@dataclass(frozen=True)
class Anatomy:
    """Sizes and places in units of half the image: x to the right, y to the front, z up."""

    body: tuple[float, float]
    fat_thickness: float
    lung: tuple[float, float]
    lung_x: float
    heart: tuple[float, float, float]
    heart_at: tuple[float, float]
    spine_radius: float
    num_ribs: int
    rib_phase: float
    vessels: tuple[tuple[float, float, float], ...]  # x, y inside the lung, radius


def draw_anatomy(generator: np.random.Generator) -> Anatomy:
    """Returns the sizes of one imaginary patient."""
    uniform = generator.uniform
    vessels = tuple(
        (uniform(-0.6, 0.6), uniform(-0.6, 0.6), uniform(0.02, 0.05))
        for _ in range(VESSELS_PER_LUNG)
    )
    return Anatomy(
        body=(uniform(0.82, 0.94), uniform(0.60, 0.72)),
        fat_thickness=uniform(0.03, 0.10),
        lung=(uniform(0.26, 0.32), uniform(0.38, 0.46)),
        lung_x=uniform(0.38, 0.43),
        heart=(uniform(0.20, 0.27), uniform(0.19, 0.25), uniform(0.5, 0.7)),
        heart_at=(uniform(-0.14, -0.06), uniform(0.12, 0.22)),
        spine_radius=uniform(0.10, 0.13),
        num_ribs=int(generator.integers(9, 12)),
        rib_phase=uniform(0.0, 2 * np.pi),
        vessels=vessels,
    )


def phantom_hu(size: tuple[int, ...], *, seed: int, epoch: int = 0) -> Tensor:
    """Returns one phantom, ``(1, *size)`` float32 in HU, axes as in RAS.

    Two axes give an axial slice of the patient that ``seed`` draws, at a height that ``epoch``
    draws; three give the whole chest, the same in every epoch.
    """
    anatomy = draw_anatomy(np.random.default_rng(seed))
    if len(size) == 2:
        generator = np.random.default_rng((seed, epoch))
        x, y = np.meshgrid(*map(_axis, size), indexing="ij")
        z = np.full_like(x, generator.uniform(-0.6, 0.6))
    else:
        generator = np.random.default_rng((seed, 0))
        x, y, z = np.meshgrid(*map(_axis, size), indexing="ij")
    image = _drawn(anatomy, x, y, z)
    image += generator.normal(0.0, NOISE_HU, image.shape)
    return torch.from_numpy(image.astype(np.float32)).unsqueeze(0)


def _axis(length: int) -> np.ndarray:
    """Returns the centres of ``length`` pixels that span -1 to 1."""
    return (np.arange(length) + 0.5) / length * 2 - 1


def _drawn(anatomy: Anatomy, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Returns the anatomy in HU, painted from the outside to the inside."""
    body = _ellipse(x, y, *anatomy.body)
    muscle_size = tuple(radius - anatomy.fat_thickness for radius in anatomy.body)
    muscle = _ellipse(x, y, *muscle_size)
    image = np.where(body < 1, FAT_HU, AIR_HU)
    image = np.where(muscle < 1, MUSCLE_HU, image)
    # Lungs are widest in the middle, and end in a dome at the top and at the bottom.
    height = np.sqrt(np.clip(1 - (z / 1.05) ** 2, 0.05, 1))
    for side in (-1, 1):
        lung_x, lung_y = x - side * anatomy.lung_x, y - 0.02
        width, depth = anatomy.lung[0] * height, anatomy.lung[1] * height
        is_lung = _ellipse(lung_x, lung_y, width, depth) < 1
        image = np.where(is_lung, LUNG_HU, image)
        for vessel_x, vessel_y, radius in anatomy.vessels:
            distance = _ellipse(
                lung_x - vessel_x * width, lung_y - vessel_y * depth, radius, radius
            )
            image = np.where(is_lung & (distance < 1), MUSCLE_HU, image)
    heart_x, heart_y = anatomy.heart_at
    heart = _ellipse(x - heart_x, y - heart_y, *anatomy.heart[:2]) + (z / anatomy.heart[2]) ** 2
    image = np.where(heart < 1, MUSCLE_HU + 20, image)
    image = np.where(heart < 0.45, BLOOD_HU, image)
    image = np.where(_ellipse(x + 0.09, y + 0.18, 0.06, 0.06) < 1, BLOOD_HU, image)  # aorta
    image = np.where((_ellipse(x, y + 0.02, 0.05, 0.05) < 1) & (z > 0.2), AIR_HU, image)  # trachea
    return _with_bones(image, anatomy, x, y, z, muscle)


def _with_bones(
    image: np.ndarray,
    anatomy: Anatomy,
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    muscle: np.ndarray,
) -> np.ndarray:
    """Returns the image with spine and ribs; ``muscle`` is 1 at the edge of the muscle."""
    spine_y = y + anatomy.body[1] * 0.62
    spine = _ellipse(x, spine_y, anatomy.spine_radius, anatomy.spine_radius * 0.85)
    image = np.where(spine < 1, CORTEX_HU, image)
    image = np.where(spine < 0.6, MARROW_HU, image)
    canal = _ellipse(x, spine_y + anatomy.spine_radius * 1.3, 0.04, 0.04)
    image = np.where((canal > 1) & (canal < 3.5), CORTEX_HU, image)
    image = np.where(canal < 1, MUSCLE_HU, image)
    # Ribs are arcs between muscle and lung that come and go with angle and height.
    angle = np.arctan2(y, np.abs(x))
    wave = np.cos(anatomy.num_ribs * (angle + 0.6 * z) + anatomy.rib_phase)
    is_rib = (muscle > 0.80) & (muscle < 0.93) & (wave > 0.35) & (np.abs(x) > 0.15)
    return np.where(is_rib, CORTEX_HU * 0.75, image)


def _ellipse(
    x: np.ndarray, y: np.ndarray, width: float | np.ndarray, depth: float | np.ndarray
) -> np.ndarray:
    """Returns the ellipse's equation: 1 on its edge, less inside; both sizes are half-axes."""
    return (x / width) ** 2 + (y / depth) ** 2
