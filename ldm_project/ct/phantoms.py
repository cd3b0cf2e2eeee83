"""Draws chest CT phantoms in Hounsfield units, each different, for use without any data.

A patient is painted as solids with soft edges, as a scanner's voxels average over tissues, and
covered with noise of a scanner's spectrum.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ldm_project.ct.canvas import Canvas
from ldm_project.ct.patients import Patient, draw_patient

# Hounsfield units of what a chest CT shows.
AIR_HU, FAT_HU, MUSCLE_HU, HEART_HU, LIVER_HU = -1000.0, -100.0, 50.0, 70.0, 90.0
DISC_HU, MARROW_HU, CORTEX_HU, TABLE_HU = 80.0, 220.0, 550.0, -350.0

NOISE_HU = 25.0  # standard deviation in a slice of 512 pixels; wider pixels average it away
NOISE_PIXELS = 512
NOISE_PEAK_CYCLES_PER_VOXEL = 0.2  # where a scanner's noise is strongest, within a slice

SPINE_HEIGHT = 0.2  # of a vertebra and the disc above it
DOME_HEIGHT = 0.4  # of the diaphragm
SLICE_Z_RANGE = (-0.7, 0.7)  # where slices are cut
# Small volumes, which are the same in every epoch, are kept in memory: 64 MiB in all.
MAX_KEPT_VOXELS, NUM_KEPT = 2**17, 128
NUM_KEPT_PATIENTS = 512  # of 20 kB: each epoch cuts another slice of the same


def phantom_hu(size: tuple[int, ...], *, seed: int, epoch: int = 0) -> Tensor:
    """Returns one phantom, ``(1, *size)`` float32 in HU, axes as in RAS.

    Two axes give an axial slice of the patient that ``seed`` draws, at a height that ``epoch``
    draws; three give the whole chest, the same in every epoch.
    """
    if len(size) == 2:
        return _drawn_hu(size, seed, epoch)
    if math.prod(size) <= MAX_KEPT_VOXELS:
        return _kept_hu(size, seed).clone()
    return _drawn_hu(size, seed, 0)


@lru_cache(maxsize=NUM_KEPT)
def _kept_hu(size: tuple[int, ...], seed: int) -> Tensor:
    return _drawn_hu(size, seed, 0)


@lru_cache(maxsize=NUM_KEPT_PATIENTS)
def _kept_patient(seed: int) -> Patient:
    return draw_patient(seed)


def _drawn_hu(size: tuple[int, ...], seed: int, epoch: int) -> Tensor:
    generator = np.random.default_rng((seed, epoch))
    z = _axis(size[2]) if len(size) == 3 else np.array([generator.uniform(*SLICE_Z_RANGE)])
    axes = (_axis(size[0]), _axis(size[1]), z)
    canvas = Canvas(axes, voxel=2.0 / max(size[:2]), background=AIR_HU)
    _paint(canvas, _kept_patient(seed))
    image = canvas.image + _noise_hu(generator, canvas.image.shape)
    return torch.from_numpy(image.astype(np.float32).reshape(1, *size))


def _axis(length: int) -> np.ndarray:
    """Returns the centres of ``length`` pixels that span -1 to 1."""
    return (np.arange(length) + 0.5) / length * 2 - 1


def _paint(canvas: Canvas, patient: Patient) -> None:
    """Paints a patient on a table, from the outside to the inside."""
    canvas.move(*patient.body_at)
    inner = tuple(radius - patient.fat_thickness for radius in patient.body)
    _paint_table(canvas, back_y=-patient.body[1])
    canvas.fill(canvas.ellipsoid((0, 0, 0), patient.body), FAT_HU)
    canvas.fill(canvas.ellipsoid((0, 0, 0), inner), MUSCLE_HU)
    liver = canvas.ellipsoid((patient.lung_x * 0.8, 0.0, 0.0), (0.42, inner[1] * 0.8, 2.0))
    canvas.fill(liver * _dome(canvas, patient, 1, patient.diaphragm_z[1]), LIVER_HU)
    lungs = _lungs(canvas, patient)
    canvas.fill(lungs, patient.lung_hu)
    canvas.fill(lungs * canvas.tubes(patient.vessels), MUSCLE_HU)
    _paint_heart(canvas, patient)
    canvas.fill(canvas.tubes(patient.aorta), patient.blood_hu)
    canvas.fill(canvas.tubes(patient.airways), AIR_HU)
    _paint_spine(canvas, patient)
    canvas.fill(canvas.tubes(patient.ribs), CORTEX_HU)
    canvas.fill(canvas.ellipsoid((0, inner[1] - 0.05, 0.25), (0.07, 0.03, 0.5)), MARROW_HU)


def _paint_table(canvas: Canvas, *, back_y: float) -> None:
    """Paints the curved top of the table that the patient lies on."""
    distance = np.abs(canvas.y - (back_y - 0.05 + 0.12 * canvas.x**2)) - 0.02
    is_wide_enough = np.abs(canvas.x) < 0.75
    canvas.fill(canvas.share(distance) * is_wide_enough * np.ones_like(canvas.z), TABLE_HU)


def _lungs(canvas: Canvas, patient: Patient) -> np.ndarray:
    """Returns each voxel's share of lung: ellipsoids above the domes of the diaphragm."""
    share = np.zeros(canvas.image.shape)
    for side, dome_z in zip((-1, 1), patient.diaphragm_z, strict=True):
        lung = canvas.ellipsoid((side * patient.lung_x, 0.0, 0.0), patient.lung)
        share = np.maximum(share, lung * (1 - _dome(canvas, patient, side, dome_z)))
    return share


def _dome(canvas: Canvas, patient: Patient, side: int, dome_z: float) -> np.ndarray:
    """Returns each voxel's share under the diaphragm: half an ellipsoid, and all below it."""
    center = (side * patient.lung_x, 0.0, dome_z - DOME_HEIGHT)
    radii = (patient.lung[0] * 1.4, patient.lung[1] * 1.4, DOME_HEIGHT)
    return np.where(canvas.z < center[2], 1.0, canvas.ellipsoid(center, radii))


def _paint_heart(canvas: Canvas, patient: Patient) -> None:
    canvas.fill(canvas.ellipsoid(patient.heart_at, patient.heart), HEART_HU)
    x, y, z = patient.heart_at
    for shift_x, shift_y, part in ((-0.35, -0.2, 0.5), (0.4, 0.1, 0.45)):
        chamber_at = (x + shift_x * patient.heart[0], y + shift_y * patient.heart[1], z)
        chamber = canvas.ellipsoid(chamber_at, [part * radius for radius in patient.heart])
        canvas.fill(chamber, patient.blood_hu)


def _paint_spine(canvas: Canvas, patient: Patient) -> None:
    """Paints vertebrae with their arch and canal, and the discs between them."""
    radius, y = patient.spine_radius, -patient.body[1] * 0.60
    phase = (canvas.z / SPINE_HEIGHT + patient.spine_phase) % 1.0
    bone = np.clip((0.5 - np.abs(phase - 0.5)) * 8, 0.0, 1.0)  # 0 in the middle of a disc
    for part, hu in ((1.0, CORTEX_HU), (0.8, MARROW_HU)):
        solid = canvas.ellipsoid((0, y, 0), (part * radius, part * radius * 0.8))
        canvas.fill(solid, DISC_HU + bone * (hu - DISC_HU))
    canal_y = y - radius * 1.25
    canvas.fill(canvas.ellipsoid((0, canal_y, 0), (0.085, 0.075)) * bone, CORTEX_HU)
    canvas.fill(canvas.ellipsoid((0, canal_y - 0.09, 0), (0.025, 0.07)) * bone, CORTEX_HU)
    canvas.fill(canvas.ellipsoid((0, canal_y, 0), (0.045, 0.04)), MUSCLE_HU - 20)


def _noise_hu(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Returns noise with a scanner's spectrum within each slice: it rises, peaks and falls.

    Source: Riederer, Pelc & Chesler 1978 (The noise power spectrum in computed X-ray tomography),
        Phys. Med. Biol. 23:446: filtered backprojection leaves noise whose power grows with the
        frequency, until the kernel rolls off.
    """
    white = generator.normal(0.0, 1.0, shape)
    frequency = np.hypot(
        np.fft.fftfreq(shape[0])[:, None, None], np.fft.rfftfreq(shape[1])[None, :, None]
    )
    ratio = frequency / NOISE_PEAK_CYCLES_PER_VOXEL
    amplitude = np.sqrt(ratio) * np.exp((1 - ratio**2) / 4)
    spectrum = np.fft.rfftn(white, axes=(0, 1)) * amplitude
    shaped = np.fft.irfftn(spectrum, s=shape[:2], axes=(0, 1))
    return NOISE_HU * max(shape[:2]) / NOISE_PIXELS * shaped / shaped.std()
