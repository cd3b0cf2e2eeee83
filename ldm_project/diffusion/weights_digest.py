"""A digest of a network's weights: equal for equal weights, whichever backend built the network."""

import hashlib
from collections.abc import Mapping

from torch import Tensor, nn

from ldm_project.diffusion.models import canonical_state

DIGEST_BYTES = 16


def weights_digest(network: nn.Module) -> str:
    """Returns the digest of a network's weights, as hexadecimal digits."""
    return digest_of_state(canonical_state(network))


def digest_of_state(state: Mapping[str, Tensor]) -> str:
    """Returns the digest of weights by their names in MONAI core: a changed bit changes it."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for name, weight in sorted(state.items()):
        values = weight.cpu().contiguous().numpy()
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
