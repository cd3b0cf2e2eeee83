"""CT of The Cancer Imaging Archive: a collection's first series, downloaded at first use.

Source: https://wiki.cancerimagingarchive.net/display/Public/NBIA+Search+REST+API+Guide.
"""

import json
import re
import shutil
import sys
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlencode
from urllib.request import urlopen
from zipfile import BadZipFile, ZipFile

from monai.apps.tcia import BASE_URL

from ldm_project.cache import cache_folder, filled_alone
from ldm_project.errors import DataError

COLLECTION_NAME = re.compile(r"[A-Za-z0-9][\w .()+-]*")
SERIES_UID = re.compile(r"[0-9.]+")
LISTING_FILE = "series.json"
TIMEOUT_S = 60.0  # longest wait for the next byte
# The exceptions of the network, of a broken archive and of a full disk.
DOWNLOAD_ERRORS = (OSError, HTTPException, BadZipFile, zlib.error, EOFError, RuntimeError)


@dataclass(frozen=True, order=True)
class Series:
    """A CT series of a collection; sorting puts series in the order of patients, then UIDs."""

    patient: str
    uid: str
    num_images: int
    num_bytes: int
    licence: str


def collection_files(collection: str, num_series: int, *, base_url: str = BASE_URL) -> list[Path]:
    """Returns the files of a collection's first CT series; downloads the missing ones.

    The list of the collection's series is kept too, so later calls take the same series and need
    no network.

    Args:
        collection: its name, ``LIDC-IDRI``.
        num_series: how many series, in the order of patients and of UIDs.
        base_url: of the archive's REST interface, up to the name of a query.

    Raises:
        DataError: the archive has no CT collection of that name, or a download fails.
        CacheError: the folder for the download cannot be made.
    """
    if not COLLECTION_NAME.fullmatch(collection):
        raise DataError(f"data=tcia:{collection} names no collection; try tcia:LIDC-IDRI:20.")
    folder = cache_folder() / "data" / "tcia" / collection
    with filled_alone(folder):
        series = _listing(collection, folder, base_url)[:num_series]
        missing = [one for one in series if not (folder / one.uid).is_dir()]
        if missing:
            _announce(collection, missing, folder)
        for one in missing:
            _download(one, folder, base_url)
    return sorted(file for one in series for file in (folder / one.uid).iterdir())


def _listing(collection: str, folder: Path, base_url: str) -> list[Series]:
    """Returns the CT series of a collection; asks the archive only at first use."""
    kept = folder / LISTING_FILE
    try:
        return [Series(**item) for item in json.loads(kept.read_text())]
    except (OSError, ValueError, TypeError):  # the kept list is missing or damaged
        pass
    url = f"{base_url}getSeries?{urlencode({'Collection': collection, 'Modality': 'CT'})}"
    try:
        with urlopen(url, timeout=TIMEOUT_S) as answer:
            text = answer.read().decode()
        # the archive answers an unknown collection with an empty body
        series = sorted(_series(item) for item in json.loads(text or "[]"))
    except (*DOWNLOAD_ERRORS, ValueError, KeyError, TypeError) as error:
        raise _no_download(f"The list of series of {collection!r}", url, folder, error) from error
    if not series:
        raise DataError(
            f"The Cancer Imaging Archive has no CT in a public collection {collection!r} ({url}). "
            f"Names are as on https://www.cancerimagingarchive.net/browse-collections."
        )
    staging = kept.with_suffix(".new")
    staging.write_text(json.dumps([asdict(one) for one in series], indent=1))
    staging.replace(kept)
    return series


def _series(item: dict[str, object]) -> Series:
    """Returns a series from one item of the archive's answer.

    Raises:
        ValueError: the item has no UID.
    """
    uid = str(item["SeriesInstanceUID"])
    if not SERIES_UID.fullmatch(uid):
        raise ValueError(f"SeriesInstanceUID is {uid!r}")
    return Series(
        patient=str(item.get("PatientID", "")),
        uid=uid,
        num_images=int(str(item["ImageCount"])),
        num_bytes=int(str(item.get("FileSize", 0))),
        licence=str(item.get("LicenseName", "")),
    )


def _announce(collection: str, missing: Sequence[Series], folder: Path) -> None:
    size_gb = sum(one.num_bytes for one in missing) / 1e9
    licences = ", ".join(sorted({one.licence or "not stated" for one in missing}))
    print(
        f"Downloading {len(missing)} series of {collection} ({size_gb:.1f} GB) to {folder}. "
        f"Licence: {licences}.",
        file=sys.stderr,
    )


def _download(series: Series, folder: Path, base_url: str) -> None:
    """Downloads a series into the folder, where it appears only when complete."""
    url = f"{base_url}getImage?{urlencode({'SeriesInstanceUID': series.uid})}"
    try:
        with TemporaryDirectory(prefix="unfinished-", dir=folder) as staging:
            archive, unpacked = Path(staging) / "series.zip", Path(staging) / "series"
            with urlopen(url, timeout=TIMEOUT_S) as answer, archive.open("wb") as file:
                shutil.copyfileobj(answer, file)
            with ZipFile(archive) as content:
                content.extractall(unpacked)
            num_images = len(list(unpacked.glob("*.dcm")))
            if num_images != series.num_images:
                raise EOFError(f"it came with {num_images} of {series.num_images} images")
            unpacked.rename(folder / series.uid)
    except DOWNLOAD_ERRORS as error:
        raise _no_download(f"Series {series.uid}", url, folder, error) from error


def _no_download(what: str, url: str, folder: Path, error: Exception) -> DataError:
    return DataError(
        f"{what} cannot be downloaded from {url} to {folder}: {error}. What came before is kept: "
        f"try again with a network and free disk space; or download by the archive's own tool, "
        f"the NBIA Data Retriever, and give data=FOLDER."
    )
