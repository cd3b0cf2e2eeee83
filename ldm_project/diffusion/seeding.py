"""Random numbers that follow from a key alone: of a sample, or of an iteration of a training."""

import hashlib

import torch


def seeded_generator(key: bytes) -> torch.Generator:
    """Returns a generator on the CPU, so that every device gets the same numbers."""
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))
