"""CT data as a dataset of MLflow: the input that a training's run shows in the UI."""

import json
from typing import Any

from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.dataset import Dataset

from ldm_project.ct.data import CtScans
from ldm_project.ct.sources import DECATHLON_SCHEME, TCIA_SCHEME
from ldm_project.parsing import num_phantoms
from ldm_project.settings import TrainingSettings

FILES = "files"  # in place of a folder's name, which may name patients
MAX_DIGEST_LENGTH = 36  # MLflow takes no longer one


class CtDataset(Dataset):
    """The scans of a training: which they are, and how many; their voxels stay where they are."""

    def __init__(self, settings: TrainingSettings, scans: CtScans) -> None:
        """Describes the scans.

        Args:
            settings: of the training, which name the source of its data.
            scans: read from there.
        """
        source = source_name(settings.data)
        self._profile = {
            "num_scans": scans.num_scans,
            "num_skipped_files": scans.num_skipped,
            "size": list(settings.size),
        }
        self._scans_digest = scans.digest[:MAX_DIGEST_LENGTH]
        super().__init__(CodeDatasetSource(tags={"data": source}), name=f"ct {source}")

    def _compute_digest(self) -> str:
        return self._scans_digest

    @property
    def profile(self) -> dict[str, Any]:
        """How many scans there are, how many files were left out, and the size of an image."""
        return self._profile

    @property
    def schema(self) -> None:
        """Images have none."""
        return

    def to_dict(self) -> dict[str, str]:
        """Returns the dataset's description for MLflow."""
        return {**super().to_dict(), "profile": json.dumps(self._profile)}


def source_name(data: str) -> str:
    """Returns the origin of scans: phantoms, a public dataset, or ``files`` for any folder."""
    is_public = data.startswith((DECATHLON_SCHEME, TCIA_SCHEME))
    return data if is_public or num_phantoms(data) else FILES
