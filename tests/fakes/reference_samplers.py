"""The samplers once more, in NumPy and double precision, from their papers' formulas alone.

A noise level is (alpha, sigma): latents are alpha·data + sigma·noise. ``model`` predicts the
velocity alpha·noise - sigma·data. Nothing here is taken from diffusers or from the project but
the timesteps at which the levels are read.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

NUM_TIMESTEPS = 1000
MAX_BETA = 0.999
Model = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Level:
    """A noise level; ``log_snr`` is lambda in the papers, ln(alpha / sigma)."""

    alpha: float
    sigma: float

    @property
    def log_snr(self) -> float:
        return math.log(self.alpha / self.sigma) if self.sigma else math.inf


def cosine_levels() -> list[Level]:
    """Nichol & Dhariwal 2021, eq. 17, with its betas cut off at 0.999."""

    def kept(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    levels, product = [], 1.0
    for timestep in range(NUM_TIMESTEPS):
        start, end = timestep / NUM_TIMESTEPS, (timestep + 1) / NUM_TIMESTEPS
        product *= 1 - min(MAX_BETA, 1 - kept(end) / kept(start))
        levels.append(Level(math.sqrt(product), math.sqrt(1 - product)))
    return levels


def trailing_timesteps(steps: int) -> list[int]:
    """Lin et al. 2023, table 2: 999 first, evenly down."""
    return [round(NUM_TIMESTEPS * (1 - step / steps)) - 1 for step in range(steps)]


def data_of(latents: np.ndarray, velocity: np.ndarray, level: Level) -> np.ndarray:
    """Salimans & Ho 2022, eq. D.1: the data that a velocity implies."""
    return level.alpha * latents - level.sigma * velocity


def walk(steps: int) -> Iterator[tuple[int, Level, Level]]:
    """Yields each timestep with the level there and the level after it; the last has no noise."""
    levels, timesteps = cosine_levels(), trailing_timesteps(steps)
    for here, after in zip(timesteps, [*timesteps[1:], None], strict=True):
        yield here, levels[here], Level(1.0, 0.0) if after is None else levels[after]


def ddim(model: Model, latents: np.ndarray, steps: int) -> np.ndarray:
    """Song et al. 2021 (arXiv:2010.02502), eq. 12 without noise."""
    for timestep, here, after in walk(steps):
        data = data_of(latents, model(latents, timestep), here)
        noise = (latents - here.alpha * data) / here.sigma
        latents = after.alpha * data + after.sigma * noise
    return latents


def ddpm(model: Model, latents: np.ndarray, steps: int, draws: Sequence[np.ndarray]) -> np.ndarray:
    """Ho et al. 2020 (arXiv:2006.11239), eq. 6 and 7, between any two levels.

    ``draws`` is the noise added after each step but the last.
    """
    for number, (timestep, here, after) in enumerate(walk(steps)):
        data = data_of(latents, model(latents, timestep), here)
        ratio = here.alpha / after.alpha  # sqrt of the paper's alpha_t
        beta = 1 - ratio**2
        mean = (after.alpha * beta * data + ratio * after.sigma**2 * latents) / here.sigma**2
        std = math.sqrt(beta) * after.sigma / here.sigma
        latents = mean + std * draws[number] if after.sigma else mean
    return latents


def dpmpp(model: Model, latents: np.ndarray, steps: int) -> np.ndarray:
    """Lu et al. 2022 (arXiv:2211.01095), algorithm 2: DPM-Solver++(2M).

    The first step is of order one, and so is the last where no noise is left.
    """
    earlier: tuple[np.ndarray, float] | None = None  # data and log_snr of the step before
    for timestep, here, after in walk(steps):
        data = data_of(latents, model(latents, timestep), here)
        step = after.log_snr - here.log_snr
        used = data
        if earlier is not None and after.sigma:
            ratio = (here.log_snr - earlier[1]) / step
            used = (1 + 1 / (2 * ratio)) * data - earlier[0] / (2 * ratio)
        latents = after.sigma / here.sigma * latents - after.alpha * math.expm1(-step) * used
        earlier = data, here.log_snr
    return latents


def dpmpp_sde(
    model: Model, latents: np.ndarray, steps: int, draws: Sequence[np.ndarray]
) -> np.ndarray:
    """Lu et al. 2022, appendix B: SDE-DPM-Solver++(2M), of order one where dpmpp is.

    ``draws`` is the noise added after each step but the last.
    """
    earlier: tuple[np.ndarray, float] | None = None
    for number, (timestep, here, after) in enumerate(walk(steps)):
        data = data_of(latents, model(latents, timestep), here)
        step = after.log_snr - here.log_snr
        used = data
        if earlier is not None and after.sigma:
            ratio = (here.log_snr - earlier[1]) / step
            used = data + (data - earlier[0]) / (2 * ratio)
        kept = after.sigma / here.sigma * math.exp(-step)
        latents = kept * latents + after.alpha * -math.expm1(-2 * step) * used
        if after.sigma:
            latents = latents + after.sigma * math.sqrt(-math.expm1(-2 * step)) * draws[number]
        earlier = data, here.log_snr
    return latents


def unipc(model: Model, latents: np.ndarray, steps: int) -> np.ndarray:
    """Zhao et al. 2023 (arXiv:2302.04867), algorithms 5 and 6: UniPC of order two, B2(h) = e^h - 1.

    Each step is corrected as soon as the model has seen where it led, so the last is not.
    """
    history: list[tuple[np.ndarray, Level]] = []  # data and level of each step
    before = latents  # what the step that led here started from
    for timestep, here, after in walk(steps):
        data = data_of(latents, model(latents, timestep), here)
        if history:
            latents = _unipc_corrected(before, history, data, here)
        history.append((data, here))
        before = latents
        latents = _unipc_predicted(latents, history, after)
    return latents


def _unipc_predicted(
    latents: np.ndarray, history: list[tuple[np.ndarray, Level]], after: Level
) -> np.ndarray:
    data, here = history[-1]
    step = after.log_snr - here.log_snr
    predicted = after.sigma / here.sigma * latents - after.alpha * math.expm1(-step) * data
    if len(history) == 1 or not after.sigma:
        return predicted
    older, older_level = history[-2]
    r = (older_level.log_snr - here.log_snr) / step
    difference = (older - data) / r
    return predicted - after.alpha * math.expm1(-step) * 0.5 * difference


def _unipc_corrected(
    before: np.ndarray, history: list[tuple[np.ndarray, Level]], data: np.ndarray, here: Level
) -> np.ndarray:
    started, level = history[-1]
    step = here.log_snr - level.log_snr
    decay = math.expm1(-step)  # B(h) with data prediction, h negative
    plain = here.sigma / level.sigma * before - here.alpha * decay * started
    newest = data - started
    if len(history) == 1:
        return plain - here.alpha * decay * 0.5 * newest
    older, older_level = history[-2]
    r = (older_level.log_snr - level.log_snr) / step
    # Eq. 5 for data prediction: the two weights solve R(r, 1) · w = b, with phi functions of -h.
    phi_2 = decay / -step - 1
    phi_3 = phi_2 / -step - 0.5
    right = np.array([phi_2 / decay, 2 * phi_3 / decay])
    weights = np.linalg.solve(np.array([[1.0, 1.0], [r, 1.0]]), right)
    correction = weights[0] * (older - started) / r + weights[1] * newest
    return plain - here.alpha * decay * correction


def rectified_flow(
    model: Callable[[np.ndarray, float], np.ndarray], latents: np.ndarray, steps: int
) -> np.ndarray:
    """Euler's method from time 1 to 0; ``model`` is told the time and points to noise."""
    time = 1.0
    for step in range(1, steps + 1):
        later = 1.0 - step / steps
        latents = latents + (later - time) * model(latents, time)
        time = later
    return latents
