"""Prints the pytest marker expression of everything that this machine can run."""

import shutil
import subprocess


def has_gpu() -> bool:
    """Returns whether an NVIDIA driver answers."""
    return (
        shutil.which("nvidia-smi") is not None
        and subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0
    )


def unavailable() -> list[str]:
    """Returns the markers whose tests this machine cannot run."""
    missing = []
    if not (shutil.which("chromium") or shutil.which("google-chrome")):
        missing.append("browser")
    if not shutil.which("pg_ctlcluster"):
        missing.append("postgres")
    if not has_gpu():
        missing.append("gpu")
    return missing


if __name__ == "__main__":
    # An expression that is true of every test where nothing is missing.
    print(" and ".join(f"not {marker}" for marker in unavailable()) or "slow or not slow")
