"""The trained VQ-GAN as MLflow loads it, from this file as code: ``predict`` reconstructs."""

from pathlib import Path

import mlflow
import numpy as np
import torch
from mlflow.pyfunc import PythonModel, PythonModelContext

from ldm_project.config import VqganConfig
from ldm_project.ct.hounsfield import hu_from_network, network_from_hu
from ldm_project.diffusion.autoencoders import decode, encode
from ldm_project.diffusion.checkpoints import load_vqgan

CHECKPOINT_ARTIFACT = "checkpoint"


class VectorQuantisedAutoencoder(PythonModel):
    """Reconstructs CT images: encodes them to the LDM's latent space, and decodes them."""

    def load_context(self, context: PythonModelContext) -> None:
        """Loads the checkpoint that was logged beside this file."""
        self._checkpoint = load_vqgan(
            Path(context.artifacts[CHECKPOINT_ARTIFACT]),
            backend=VqganConfig.backend,
            device=None,
        )

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002  # MLflow's signature
        model_input: np.ndarray,
        params: dict[str, int | str] | None = None,  # noqa: ARG002  # MLflow's signature
    ) -> np.ndarray:
        """Returns the reconstructions, float32 ``(N, 1, *S)`` in HU, of images of that shape."""
        vqgan = self._checkpoint.vqgan
        images = network_from_hu(torch.as_tensor(model_input, dtype=torch.float32))
        with torch.inference_mode():
            reconstructed = decode(vqgan, encode(vqgan, images))
        hounsfield: np.ndarray = hu_from_network(reconstructed).cpu().numpy()
        return hounsfield


mlflow.models.set_model(VectorQuantisedAutoencoder())
