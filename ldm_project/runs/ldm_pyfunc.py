"""The trained LDM as MLflow loads it, from this file as code: ``predict`` makes CT images."""

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from ldm_project.config import SynthConfig
from ldm_project.ct.hounsfield import hu_from_network
from ldm_project.diffusion.checkpoints import load_ldm
from ldm_project.diffusion.noise_schedulers import check_sampler
from ldm_project.diffusion.sampling import decode_samples, denoise, initial_noise
from ldm_project.resolution import default_sampler

CHECKPOINT_ARTIFACT = "checkpoint"


class LatentDiffusionModel(PythonModel):
    """Samples CT images in Hounsfield units."""

    def load_context(self, context: PythonModelContext) -> None:
        """Loads the checkpoint that was logged beside this file."""
        self._ldm = load_ldm(
            Path(context.artifacts[CHECKPOINT_ARTIFACT]),
            backend=SynthConfig.backend,
            device=None,
        )

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002  # MLflow's signature
        model_input: pd.DataFrame,
        params: dict[str, int | str] | None = None,
    ) -> np.ndarray:
        """Returns float32 images ``(N, 1, *S)`` in HU, one per row of the input.

        Args:
            context: unused; the checkpoint is loaded already.
            model_input: one row per image; column ``index`` (any integers): equal indices and
                seeds give equal images.
            params: ``steps``, ``sampler`` and ``seed``.

        Raises:
            InvalidInputError: the sampler does not suit the model, or there are too many steps.
        """
        chosen = params or {}
        ldm = self._ldm
        sampler = str(chosen.get("sampler", default_sampler(ldm.objective, ldm.spec.dims)))
        check_sampler(sampler, ldm.objective)
        noise = initial_noise(
            ldm.spec,
            [int(index) for index in model_input["index"]],
            seed=int(chosen.get("seed", SynthConfig.seed)),
        )
        latents = noise
        for step in denoise(
            ldm.unet,
            noise,
            sampler=sampler,
            steps=int(chosen.get("steps", SynthConfig.steps)),
        ):
            latents = step.latents
        images = decode_samples(ldm.vqgan, latents, ldm.latent_scale)
        hounsfield: np.ndarray = hu_from_network(images).cpu().numpy()
        return hounsfield


mlflow.models.set_model(LatentDiffusionModel())
