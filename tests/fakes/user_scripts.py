"""Runs scripts as their users would, in processes of their own, and reads what they left."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

ZERO_CODE = {
    "MLFLOW_CARBON_AUTOLOG": "true",
    "MLFLOW_CARBON_REGION": "SE",
    "MLFLOW_CARBON_PUE": "1.2",
}
TIMEOUT_S = 900  # a busy machine takes minutes for what takes seconds


class UserFolder:
    """A folder with a user's script and the store that MLflow makes beside it."""

    def __init__(self, folder: Path, empty_store: Path) -> None:
        """Puts a store there that is migrated already, which takes MLflow seconds."""
        self.path = folder
        self.uri = f"sqlite:///{folder}/mlflow.db"
        shutil.copy(empty_store, folder / "mlflow.db")

    def run(
        self, script: str, *, environment: Mapping[str, str] = ZERO_CODE, exit_code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a script of these lines."""
        return self.run_as("script.py", script, environment=environment, exit_code=exit_code)

    def run_as(
        self,
        name: str,
        script: str,
        *,
        environment: Mapping[str, str] = ZERO_CODE,
        exit_code: int = 0,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a script of these lines that has this name."""
        (self.path / name).write_text(script)
        return self.command(sys.executable, name, environment=environment, rc=exit_code)

    def command(
        self, *command: str, environment: Mapping[str, str] = ZERO_CODE, rc: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command here, and checks its exit code."""
        done = subprocess.run(
            command,
            cwd=self.path,
            env={**self.environment(), **environment},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == rc, done.stderr
        return done

    def environment(self) -> dict[str, str]:
        """Returns this machine's environment as a user has it who set nothing of MLflow's."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "CUDA_"))}
        path = os.pathsep.join([str(Path(sys.executable).parent), clean.get("PATH", "")])
        here = {"MLFLOW_CARBON_JOURNAL_DIR": str(self.path / "journals"), "PATH": path}
        return {**clean, **here, "OMP_NUM_THREADS": "1"}

    @property
    def client(self) -> MlflowClient:
        """Of the store."""
        return MlflowClient(tracking_uri=self.uri)

    def runs(self) -> list[Run]:
        """Returns the runs in the store, the oldest first."""
        experiments = [item.experiment_id for item in self.client.search_experiments()]
        return list(reversed(self.client.search_runs(experiments, order_by=["start_time DESC"])))

    def only_run(self) -> Run:
        """Returns the one run that there is."""
        (run,) = self.runs()
        return run


def free_port() -> str:
    """Returns a port of this machine that nobody listens at, for a launch over nodes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def energy_joules(run: Run) -> float:
    """Returns what a run has spent, in J."""
    return float(run.data.metrics["carbon/energy_kwh"] * 3.6e6)


def is_metered(run: Run) -> bool:
    """Returns whether anything of ours is on the run."""
    return any(key.startswith("carbon") for key in (*run.data.tags, *run.data.metrics))
