"""Headers with flipped bytes: each file is read, or is one skipped file with its reason."""

import random
import warnings

import nibabel as nib
import numpy as np
import pytest

from ldm_project.ct.ct_files import find_scans, read_hu
from ldm_project.errors import DataError
from tests.fakes.ct_scans import write_series

NIFTI_HEADER_BYTES = 348
PIXELS_FOLLOW = b"\xe0\x7f\x10\x00OW"


def flipped(content, *, length, seed):
    """Returns a file's content with one to three bytes of its header changed."""
    generator = random.Random(seed)
    changed = bytearray(content)
    for _ in range(generator.choice((1, 1, 3))):
        changed[generator.randrange(length)] = generator.randrange(256)
    return bytes(changed)


def is_read(path):
    """Returns whether a file is read; whatever else it does but be refused escapes."""
    try:
        for scan in find_scans(str(path)).scans:
            read_hu(scan, spacing_mm=None)
    except DataError:
        return False
    return True


@pytest.mark.parametrize(
    "seeds",
    [range(150), pytest.param(range(150, 10_000), marks=pytest.mark.slow)],
    ids=["few", "many"],
)
@pytest.mark.parametrize("kind", ["dicom", "nifti"])
def test_no_flip_of_a_header_escapes_or_warns(tmp_path, capfd, kind, seeds):
    if kind == "dicom":
        (path, *_) = sorted(write_series(tmp_path / "ct", num_slices=2).iterdir())
        content = path.read_bytes()
        length, source = content.index(PIXELS_FOLLOW) + 12, path.parent
    else:
        path = tmp_path / "scan.nii"
        nib.save(nib.Nifti1Image(np.full((8, 8, 4), -1000, np.int16), np.eye(4)), path)
        content, length, source = path.read_bytes(), NIFTI_HEADER_BYTES, path
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outcomes = []
        for seed in seeds:
            path.write_bytes(flipped(content, length=length, seed=seed))
            outcomes.append(is_read(source))
    assert capfd.readouterr().err == ""
    assert {True, False} == set(outcomes)
