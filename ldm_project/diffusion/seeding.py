"""Random numbers that depend only on a key: of a sample, or of a training iteration."""

import hashlib

import torch


def seeded_generator(key: bytes) -> torch.Generator:
    """Returns a generator seeded by a key; it is on the CPU, so all devices get equal numbers."""
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))
