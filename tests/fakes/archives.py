"""Public archives of CT on this machine: the Decathlon's tar files and TCIA's REST interface."""

import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

from monai.apps.datasets import DecathlonDataset


class Archive:
    """Answers by path and query, and what was asked for; an answer can be changed on the way."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, bytes] = {}
        self.asked: list[str] = []

    def add_series(self, uid: str, *, patient: str, folder: Path) -> dict[str, object]:
        """Offers a folder's files as a series; returns its entry in a list of series."""
        files = sorted(folder.glob("*.dcm"))
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("LICENSE", "CC BY 3.0")
            for file in files:
                archive.write(file, file.name)
        self.answers[f"getImage {uid}"] = packed.getvalue()
        return {
            "SeriesInstanceUID": uid,
            "PatientID": patient,
            "Modality": "CT",
            "ImageCount": len(files),
            "FileSize": sum(file.stat().st_size for file in files),
            "LicenseName": "Creative Commons Attribution 3.0 Unported License",
        }

    def add_collection(self, name: str, series: list[dict[str, object]]) -> None:
        """Offers a collection of CT series."""
        self.answers[f"getSeries {name} CT"] = json.dumps(series).encode()


@contextmanager
def served_archive() -> Iterator[Archive]:
    """Gives an archive behind a local port, for the length of a block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            parts = urlparse(self.path)
            words = [
                parts.path.strip("/"),
                *(v for vs in parse_qs(parts.query).values() for v in vs),
            ]
            archive.asked.append(" ".join(words))
            # like TCIA, an empty answer where it knows nothing
            content = archive.answers.get(" ".join(words), b"")
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    archive = Archive(f"http://127.0.0.1:{server.server_port}/")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield archive
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def write_task(folder: Path, images: dict[str, list[Path]], *, modality: str = "CT") -> Path:
    """Writes a Decathlon task of given images by section: dataset.json, imagesTr and the like."""
    places = {"training": "imagesTr", "test": "imagesTs"}
    for section, paths in images.items():
        for path in paths:
            target = folder / places[section] / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            # macOS left such files in the Decathlon's archives
            target.with_name(f"._{path.name}").write_bytes(b"no image")
            if section == "training":
                label = folder / "labelsTr" / path.name
                label.parent.mkdir(exist_ok=True)
                label.write_bytes(path.read_bytes())
    names = {
        section: [f"./{places[section]}/{p.name}" for p in ps] for section, ps in images.items()
    }
    described = {
        "name": "Spleen",
        "description": "Spleen Segmentation",
        "reference": "made here",
        "licence": "CC-BY-SA 4.0",
        "tensorImageSize": "3D",
        "modality": {"0": modality},
        "labels": {"0": "background", "1": "spleen"},
        "numTraining": len(names["training"]),
        "numTest": len(names["test"]),
        "training": [
            {"image": name, "label": name.replace("images", "labels")} for name in names["training"]
        ],
        "test": names["test"],
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def packed_task(folder: Path) -> bytes:
    """Returns a task's folder as the Decathlon's servers give it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(folder, arcname=folder.name)
    return packed.getvalue()


def decathlon_at(url: str, *, task: str, content: bytes) -> type[DecathlonDataset]:
    """Returns MONAI's data set with one task, at another place."""

    class LocalDecathlon(DecathlonDataset):
        resource = {task: f"{url}{task}.tar"}  # noqa: RUF012  # as MONAI has it
        md5 = {task: hashlib.md5(content).hexdigest()}  # noqa: RUF012

    return LocalDecathlon
