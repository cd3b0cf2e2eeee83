"""The quality of sampled images: distances to real images, diversity, and copies of real images."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from monai.metrics.regression import compute_ms_ssim
from torch import Tensor

from ldm_project.config import HU_MAX, HU_MIN
from ldm_project.ct.hounsfield import hu_from_network
from ldm_project.diffusion.autoencoders import Autoencoder, encode
from ldm_project.diffusion.copies import copied, nearest_distances, pixel_rows, repeated_fraction
from ldm_project.diffusion.fine_detail import fine_detail_hu

FEATURE_GRID = 2  # places along each axis where the encoder's channels are averaged
NUM_RESAMPLES = 200
CONFIDENCE_FRACTION = 0.95
HU_PER_BIN = 10.0
HU_EDGES = np.arange(HU_MIN, HU_MAX + HU_PER_BIN, HU_PER_BIN)
MAX_PAIRS = 64  # samples that are compared in pairs
ENCODED_TOGETHER = 16

# Wang et al. 2003 (multi-scale structural similarity), section 3.2: weights of the scales, the
# finest first; its window of 11 pixels is that of Wang et al. 2004, section III.C.
SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SSIM_SIGMA, SSIM_KERNEL_SIZE = 1.5, 11
MIN_SPREAD = 1e-6  # of a feature: one that never varies says nothing
MAX_COMPARED_VOXELS = 2**20  # voxels of images that are compared at once
NETWORK_RANGE = 2.0  # width of [-1, 1]

# Bounds as multiples of the median distance from unseen real images to the nearest training image:
# a sample is memorised if it lies much nearer, and unlike every real image if much farther.
MEMORISED_BELOW, REJECTED_ABOVE = 0.5, 2.0


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ImageSet:
    """What images are judged by: features, the histogram of HU, and some of the images."""

    features: np.ndarray  # (N, D)
    hu_fractions: np.ndarray  # of the voxels, in each bin of HU_EDGES
    examples: Tensor  # (at most MAX_PAIRS, *S) in [-1, 1]
    pixels: np.ndarray  # (N, D'): the images themselves, averaged down
    slices: np.ndarray  # (N, P, S, D''): the second judge's features of S slices along P planes
    fine_detail_hu: np.ndarray  # (N,)
    keeps_scale: bool = False  # of the features


@dataclass(frozen=True)
class Quality:
    """The comparison of a set of images with real ones.

    Attributes:
        frechet: Fréchet distance of features.
        kid: kernel distance of features; about 0 if the two sets cannot be told apart.
        plane_frechet: Fréchet distance of the second judge's features, mean over planes.
        hu_wasserstein: Wasserstein-1 distance of the histograms, in HU.
        pair_ms_ssim: mean similarity of two of the images; 1 if all are equal.
        memorised_fraction: share of images that are copies of training images.
        repeated_fraction: share of images that have a near twin among the others.
        accepted_fraction: share of images that are neither memorised nor unlike every real image.
    """

    frechet: Estimate
    kid: Estimate
    plane_frechet: Estimate
    hu_wasserstein: float
    pair_ms_ssim: float
    memorised_fraction: float
    repeated_fraction: float
    accepted_fraction: float


@dataclass(frozen=True)
class Features:
    """A way to compute the features that images are compared by.

    Attributes:
        of: returns features ``(N, D)`` of images ``(N, 1, *S)`` in [-1, 1].
        keeps_scale: ``True`` leaves features unscaled, as is usual for published networks;
            ``False`` divides them by their std over the training images.
        of_slices: returns the second judge's features ``(N, P, S, D)`` of the same images.
    """

    of: Callable[[Tensor], np.ndarray]
    keeps_scale: bool
    of_slices: Callable[[Tensor], np.ndarray]


def image_set(features: Features, images: Tensor) -> ImageSet:
    """Returns the features, the histogram and examples of images ``(N, 1, *S)`` in [-1, 1]."""
    hu = hu_from_network(images).cpu().numpy()
    counts, _ = np.histogram(hu.clip(HU_MIN, HU_MAX), HU_EDGES)
    return ImageSet(
        features=features.of(images),
        hu_fractions=counts / counts.sum(),
        examples=images[:MAX_PAIRS, 0].cpu(),
        pixels=pixel_rows(images),
        slices=features.of_slices(images),
        fine_detail_hu=fine_detail_hu(images),
        keeps_scale=features.keeps_scale,
    )


def features_of_encoder(vqgan: Autoencoder, of_slices: Callable[[Tensor], np.ndarray]) -> Features:
    """Returns ``encoder_features`` of a VQ-GAN, beside those of the second judge."""
    return Features(partial(encoder_features, vqgan), keeps_scale=False, of_slices=of_slices)


@torch.inference_mode()
def encoder_features(vqgan: Autoencoder, images: Tensor) -> np.ndarray:
    """Returns features ``(N, D)`` of images ``(N, 1, *S)``, from the VQ-GAN's encoder.

    The features are each channel's mean at a few places, and its spread. The diffusion model works
    in the same channels.
    """
    rows = []
    for start in range(0, len(images), ENCODED_TOGETHER):
        latents = encode(vqgan, images[start : start + ENCODED_TOGETHER]).float()
        pool = F.adaptive_avg_pool2d if latents.ndim == 4 else F.adaptive_avg_pool3d
        means = pool(latents, FEATURE_GRID).flatten(start_dim=1)
        spreads = latents.flatten(start_dim=2).std(dim=2)
        rows.append(torch.cat([means, spreads], dim=1).cpu())
    return torch.cat(rows).double().numpy()


def judge(images: ImageSet, training: ImageSet, held_out: ImageSet) -> Quality:
    """Returns the comparison of images with the model's training images.

    Args:
        images: to judge.
        training: real images that the model was trained on.
        held_out: real images not trained on; they show how near real images are to each other.
    """
    judged, seen, unseen = _comparable(images, training, held_out, by=training)
    distances = nearest_distances(judged, seen)
    usual = float(np.median(nearest_distances(unseen, seen)))
    is_memorised = (distances < MEMORISED_BELOW * usual) | copied(
        images.pixels, training=training.pixels, held_out=held_out.pixels
    )
    is_accepted = ~is_memorised & (distances <= REJECTED_ABOVE * usual)
    return Quality(
        frechet=estimate(frechet_distance, judged, seen),
        kid=estimate(kernel_distance, judged, seen),
        plane_frechet=estimate(
            plane_frechet_distance, *scaled_by(training.slices, images.slices, training.slices)
        ),
        hu_wasserstein=hu_wasserstein(images.hu_fractions, training.hu_fractions),
        pair_ms_ssim=pair_ms_ssim(images.examples),
        memorised_fraction=float(is_memorised.mean()),
        repeated_fraction=repeated_fraction(images.pixels, real=training.pixels),
        accepted_fraction=float(is_accepted.mean()),
    )


def _comparable(*sets: ImageSet, by: ImageSet) -> list[np.ndarray]:
    """Returns the features of each set, scaled so that the set ``by`` has mean 0 and std 1.

    Distances then do not depend on the encoder's scale, nor on one channel with large values.
    """
    if by.keeps_scale:
        return [images.features for images in sets]
    return scaled_by(by.features, *(images.features for images in sets))


def scaled_by(real: np.ndarray, *sets: np.ndarray) -> list[np.ndarray]:
    """Returns features ``(N, D)`` or ``(N, P, S, D)``, scaled so that the real have std 1, mean 0.

    Those of slices are scaled in each plane apart.
    """
    axes = (0, 2) if real.ndim == 4 else (0,)
    mean = real.mean(axis=axes, keepdims=True)
    std = np.maximum(real.std(axis=axes, keepdims=True), MIN_SPREAD)
    return [(features - mean) / std for features in sets]


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the Fréchet distance of Gaussians with the features' means and covariances.

    Source: Dowson & Landau 1982, eq. 4; Heusel et al. 2017 (arXiv:1706.08500), eq. 6. With
        C1 = AᵀA and C2 = BᵀB, the trace of the root of C1·C2 is the sum of the singular values of
        ABᵀ, since their squares are its eigenvalues.
    """
    means = first.mean(axis=0) - second.mean(axis=0)
    roots = [_covariance_root(features) for features in (first, second)]
    mixed = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    traces = sum(np.square(root).sum() for root in roots)
    return max(0.0, float(means @ means + traces - 2 * mixed))  # rounding may leave less than 0


def plane_frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the Fréchet distance of features ``(N, P, S, D)`` of slices, mean over P planes.

    Source: "2.5D FID" of Guo et al. 2024 (MAISI, arXiv:2409.11169), section 4.1.
    """
    num_features = first.shape[-1]
    return float(
        np.mean(
            [
                frechet_distance(
                    first[:, plane].reshape(-1, num_features),
                    second[:, plane].reshape(-1, num_features),
                )
                for plane in range(first.shape[1])
            ]
        )
    )


def _covariance_root(features: np.ndarray) -> np.ndarray:
    """Returns A, of at most D rows, such that AᵀA is the covariance of features ``(N, D)``."""
    root = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    if len(root) <= root.shape[1]:
        return root
    variances, axes = np.linalg.eigh(root.T @ root)  # a QR decomposition takes several times longer
    return np.asarray(np.sqrt(np.maximum(variances, 0.0))[:, None] * axes.T)


def kernel_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the kernel distance (KID), unbiased: 0 on average for equal distributions.

    Source: Bińkowski et al. 2018 (arXiv:1801.01401), section 3.1 with the kernel of section 4.
    """
    among = [_cubic_kernel(rows, rows) for rows in (first, second)]
    within = [
        (kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1)) for kernel in among
    ]
    return float(sum(within) - 2 * _cubic_kernel(first, second).mean())


def _cubic_kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns (x·y / D + 1)³ of features ``(N, D)`` and ``(M, D)``, as ``(N, M)``."""
    base = first @ second.T / first.shape[1] + 1
    return np.asarray(base * base * base)  # a power takes ten times as long


def estimate(
    distance: Callable[[np.ndarray, np.ndarray], float],
    first: np.ndarray,
    second: np.ndarray,
    *,
    seed: int = 0,
) -> Estimate:
    """Returns a distance with its bootstrap interval over both sets' images.

    Drawing with replacement repeats images, which increases every distance; the interval is moved
    back by that increase, so that it lies around the distance of the images themselves.
    """
    generator = np.random.default_rng(seed)
    value = distance(first, second)
    drawn = [
        distance(*(rows[generator.integers(len(rows), size=len(rows))] for rows in (first, second)))
        for _ in range(NUM_RESAMPLES)
    ]
    tail = (1 - CONFIDENCE_FRACTION) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail]) - np.mean(drawn) + value
    return Estimate(value, float(low), float(high))


def hu_wasserstein(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the Wasserstein-1 distance of two histograms in HU: area between cumulative sums."""
    return float(np.abs(np.cumsum(first - second)).sum() * HU_PER_BIN)


def pair_ms_ssim(images: Tensor) -> float:
    """Returns the mean MS-SSIM of neighbours among images ``(N, *S)``; 1 for a single image."""
    if len(images) < 2:
        return 1.0
    num_together = max(1, MAX_COMPARED_VOXELS // images[0].numel())
    neighbours = images.roll(1, dims=0)
    likenesses = [
        ms_ssim(first, second)
        for first, second in zip(
            torch.split(images, num_together), torch.split(neighbours, num_together), strict=True
        )
    ]
    return torch.cat(likenesses).mean().item()


def ms_ssim(first: Tensor, second: Tensor) -> Tensor:
    """Returns the MS-SSIM ``(N,)`` of pairs of images ``(N, *S)`` in [-1, 1].

    Each scale halves the image, until the window no longer fits; the weights of the scales in use
    are normalised to sum to 1.
    """
    size = first.shape[1:]
    kernel_size = min(SSIM_KERNEL_SIZE, (min(size) - 1) | 1)  # odd
    num_scales = 1
    # MONAI requires sizes of 1, 1, 4, 9 and 16 times the window, a little more than halving needs.
    while num_scales < len(SSIM_WEIGHTS) and (
        min(size) // max(2**num_scales, num_scales**2) >= kernel_size
    ):
        num_scales += 1
    weights = np.array(SSIM_WEIGHTS[:num_scales]) / sum(SSIM_WEIGHTS[:num_scales])
    return compute_ms_ssim(
        first[:, None].float(),
        second[:, None].float(),
        spatial_dims=len(size),
        data_range=NETWORK_RANGE,
        kernel_size=kernel_size,
        kernel_sigma=SSIM_SIGMA,
        weights=weights.tolist(),
    )[:, 0]
