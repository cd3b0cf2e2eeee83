"""Imaginary patients: the sizes and places of what a chest CT shows, drawn at random.

All lengths are in units of half the image: x to the patient's right, y to the front, z up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ldm_project.ct.canvas import Tubes, joined, tube

LUNG_HU, LUNG_SPREAD_HU = -830.0, 40.0
BLOOD_HU_RANGE = (90.0, 250.0)  # without and with a contrast agent

NUM_RIBS = 10  # of each side
RIB_POINTS = 14
VESSEL_GENERATIONS = 5  # times that a lung's vessels divide
VESSEL_RADIUS = 0.045  # of the first, at the hilum
CHILD_SHARE_RANGE = (0.35, 0.65)  # of the parent's flow that one of two children takes
PATIENTS_KEPT = 256  # in memory: each epoch draws slices of the same ones


@dataclass(frozen=True)
class Patient:
    """One patient; pairs are of the left side and the right side, or along x and y."""

    body: tuple[float, float]
    body_at: tuple[float, float]
    fat_thickness: float
    lung: tuple[float, float, float]
    lung_x: float
    heart: tuple[float, float, float]
    heart_at: tuple[float, float, float]
    diaphragm_z: tuple[float, float]
    spine_radius: float
    spine_phase: float  # where a vertebra begins, as a fraction of its height
    lung_hu: float
    blood_hu: float
    vessels: Tubes
    airways: Tubes
    aorta: Tubes
    ribs: Tubes


@lru_cache(maxsize=PATIENTS_KEPT)
def draw_patient(seed: int) -> Patient:
    """Returns the patient of a seed."""
    generator = np.random.default_rng(seed)
    uniform = generator.uniform
    scale = uniform(0.80, 1.0)
    body = (0.92 * scale, uniform(0.62, 0.74) * scale)
    fat_thickness = uniform(0.03, 0.11)
    lung = (uniform(0.27, 0.33) * scale, uniform(0.62, 0.72) * body[1], uniform(0.95, 1.15))
    lung_x = uniform(0.36, 0.41) * scale
    heart_at = (uniform(-0.16, -0.06), uniform(0.10, 0.20), uniform(-0.35, -0.15))
    carina = np.array([uniform(-0.02, 0.02), -0.04, uniform(0.18, 0.32)])
    hila = [carina + np.array([side * lung_x * 0.42, 0.0, -0.12]) for side in (-1, 1)]
    return Patient(
        body=body,
        body_at=(uniform(-0.03, 0.03), uniform(-0.02, 0.08)),
        fat_thickness=fat_thickness,
        lung=lung,
        lung_x=lung_x,
        heart=(uniform(0.20, 0.28) * scale, uniform(0.18, 0.25) * scale, uniform(0.32, 0.45)),
        heart_at=heart_at,
        diaphragm_z=(uniform(-0.75, -0.55), uniform(-0.65, -0.40)),
        spine_radius=uniform(0.095, 0.125),
        spine_phase=uniform(0.0, 1.0),
        lung_hu=LUNG_HU + uniform(-LUNG_SPREAD_HU, LUNG_SPREAD_HU),
        blood_hu=uniform(*BLOOD_HU_RANGE),
        vessels=_draw_vessels(generator, hila, lung_x, lung),
        airways=_draw_airways(generator, carina, hila),
        aorta=_draw_aorta(generator, heart_at),
        ribs=_draw_ribs(generator, body, fat_thickness),
    )


def _draw_vessels(
    generator: np.random.Generator,
    hila: Sequence[np.ndarray],
    lung_x: float,
    lung: Sequence[float],
) -> Tubes:
    """Returns the vessels of both lungs: a tree each, from the hilum to points all over."""
    trees: list[Tubes] = []
    for side, hilum in zip((-1, 1), hila, strict=True):
        directions = generator.normal(size=(2**VESSEL_GENERATIONS, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        reach = 0.95 * generator.uniform(size=(len(directions), 1)) ** (1 / 3)
        tips = np.array([side * lung_x, 0.0, 0.0]) + directions * reach * lung
        trees.extend(_grown(generator, hilum, VESSEL_RADIUS, tips))
    return joined(trees)


def _grown(
    generator: np.random.Generator, start: np.ndarray, radius: float, tips: np.ndarray
) -> Iterator[Tubes]:
    """Yields a vessel to each half of the tips, and the vessels that it divides into.

    The cube of a parent's radius is the sum of its children's.

    Source: Murray 1926 (The physiological principle of minimum work, I), PNAS 12:207.
    """
    if len(tips) < 2:
        return
    axis = int(np.ptp(tips, axis=0).argmax())
    order = tips[:, axis].argsort()
    share = generator.uniform(*CHILD_SHARE_RANGE)
    halves = np.split(tips[order], 2)
    for half, part in zip(halves, (share, 1 - share), strict=True):
        end = start + (half.mean(axis=0) - start) * generator.uniform(0.5, 0.75)
        thinner = radius * part ** (1 / 3)
        yield tube([start, end], [0.9 * radius, thinner])
        yield from _grown(generator, end, thinner, half)


def _draw_airways(
    generator: np.random.Generator, carina: np.ndarray, hila: Sequence[np.ndarray]
) -> Tubes:
    """Returns the trachea and the two main bronchi."""
    radius = generator.uniform(0.04, 0.055)
    trachea = tube([np.array([0.0, 0.02, 1.2]), carina], [radius, radius])
    bronchi = [tube([carina, hilum], [0.8 * radius, 0.6 * radius]) for hilum in hila]
    return joined([trachea, *bronchi])


def _draw_aorta(generator: np.random.Generator, heart_at: Sequence[float]) -> Tubes:
    """Returns the aorta: up from the heart, over the arch, down beside the spine."""
    radius, arch_z = generator.uniform(0.055, 0.08), generator.uniform(0.38, 0.52)
    points = [
        (heart_at[0] + 0.08, heart_at[1], heart_at[2] + 0.15),
        (0.06, 0.12, arch_z - 0.15),
        (0.0, 0.04, arch_z),
        (-0.09, -0.10, arch_z - 0.08),
        (-0.11, -0.24, arch_z - 0.3),
        (-0.09, -0.26, -1.2),
    ]
    return tube(points, [radius] * len(points))


def _draw_ribs(
    generator: np.random.Generator, body: Sequence[float], fat_thickness: float
) -> Tubes:
    """Returns the ribs: from the spine around the chest, falling towards the front."""
    first_z, spacing = generator.uniform(0.75, 0.9), generator.uniform(0.165, 0.195)
    fall, radius = generator.uniform(0.25, 0.45), generator.uniform(0.022, 0.030)
    width, depth = (0.91 * (length - fat_thickness) for length in body)
    angle = np.linspace(-0.42 * np.pi, 0.36 * np.pi, RIB_POINTS)  # from the back to the front
    ribs = []
    for side in (-1, 1):
        for index in range(NUM_RIBS):
            z = first_z - index * spacing - fall * (angle - angle[0]) / np.pi
            points = np.stack([side * width * np.cos(angle), depth * np.sin(angle), z], axis=1)
            ribs.append(tube(points, [radius] * RIB_POINTS))
    return joined(ribs)
