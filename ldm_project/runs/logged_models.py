"""Checkpoints as MLflow models: logged from code with safetensors beside it, and registered."""

import warnings
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.models import ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from ldm_project.config import SynthConfig
from ldm_project.diffusion.checkpoints import digests_of
from ldm_project.diffusion.models import ModelSpec
from ldm_project.resolution import default_sampler
from ldm_project.runs.references import CHECKPOINT_FOLDER, METADATA_DIGESTS, TAG_DATA_DIGEST
from mlflow_carbon.registry.run_models import record_run_models

THIS_FOLDER = Path(__file__).parent
PACKAGE_FOLDER = THIS_FOLDER.parent
# What the logged code imports; MLflow writes it into the model's requirements.txt, in the
# versions that are installed where the model is logged.
REQUIREMENTS = (
    "mlflow",
    "torch",
    "monai",
    "monai-generative",
    "diffusers",
    "einops",
    "safetensors",
    "nibabel",
    "pydicom",
    "pillow",
)


def installed_requirements() -> list[str]:
    """Returns the packages that the logged code imports, each pinned to its version here."""
    # a local version such as 2.13.0+cpu is in no index
    return [f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS]


def log_vqgan(checkpoint: Path, spec: ModelSpec, name: str, *, data_digest: str) -> str:
    """Logs a VQ-GAN checkpoint to the active run and registers it; returns its URI."""
    images = Schema([TensorSpec(np.dtype(np.float32), (-1, 1, *spec.size))])
    return _log_and_register(
        checkpoint,
        code="vqgan_pyfunc.py",
        name=name,
        signature=ModelSignature(inputs=images, outputs=images),
        data_digest=data_digest,
    )


def log_ldm(
    checkpoint: Path, spec: ModelSpec, name: str, *, objective: str, data_digest: str
) -> str:
    """Logs an LDM checkpoint to the active run and registers it; returns its URI."""
    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.long, "index")]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 1, *spec.size))]),
        params=ParamSchema(
            [
                ParamSpec("steps", DataType.long, SynthConfig.steps),
                ParamSpec("sampler", DataType.string, default_sampler(objective, spec.dims)),
                ParamSpec("seed", DataType.long, SynthConfig.seed),
            ]
        ),
    )
    return _log_and_register(
        checkpoint,
        code="ldm_pyfunc.py",
        name=name,
        signature=signature,
        data_digest=data_digest,
    )


def _log_and_register(
    checkpoint: Path,
    *,
    code: str,
    name: str,
    signature: ModelSignature,
    data_digest: str,
) -> str:
    with warnings.catch_warnings():
        # An example would have MLflow sample an image here, which costs as much as any other.
        warnings.filterwarnings("ignore", message=".*input example was not provided")
        info: ModelInfo = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(THIS_FOLDER / code),
            code_paths=[str(PACKAGE_FOLDER)],
            artifacts={CHECKPOINT_FOLDER: str(checkpoint)},
            signature=signature,
            pip_requirements=installed_requirements(),
            registered_model_name=name,
            metadata={METADATA_DIGESTS: digests_of(checkpoint)},
        )
    client = MlflowClient()
    number = str(info.registered_model_version)
    client.set_model_version_tag(name, number, TAG_DATA_DIGEST, data_digest)
    record_run_models(client, info.run_id)
    return f"models:/{name}/{number}"
