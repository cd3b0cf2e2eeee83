"""Arrays in files: the same numbers come back, or the file counts as not there."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ldm_project.array_files import is_whole, open_array, write_array
from ldm_project.errors import CacheError

ARRAY = np.arange(24, dtype=np.int16).reshape(4, 3, 2)


def write(path, *parts, array=ARRAY):
    write_array(path, parts or [array], shape=array.shape, dtype=np.int16)


def test_array_comes_back_and_numpy_reads_the_file_too(tmp_path):
    path = tmp_path / "new" / "array.npy"
    write(path, ARRAY[:1], ARRAY[1:3], ARRAY[3:])
    assert is_whole(path)
    assert np.array_equal(open_array(path), ARRAY)
    assert np.array_equal(np.load(path), ARRAY)
    assert open_array(path).dtype == np.int16
    assert [file.name for file in path.parent.iterdir()] == ["array.npy"]


def test_array_in_use_survives_that_its_file_is_written_anew(tmp_path):
    path = tmp_path / "array.npy"
    write(path)
    before = open_array(path)
    write(path, array=ARRAY + 1)
    assert np.array_equal(before, ARRAY)
    assert np.array_equal(open_array(path), ARRAY + 1)


@pytest.mark.parametrize("damage", ["missing", "empty", "short", "truncated", "flipped", "longer"])
def test_damaged_file_is_not_whole(tmp_path, damage):
    path = tmp_path / "array.npy"
    write(path)
    content = bytearray(path.read_bytes())
    content[-10] ^= 1  # one bit of a number
    whole = path.read_bytes()
    damaged = {"empty": b"", "short": whole[:3], "truncated": whole[:-2], "longer": whole + b"\0"}
    path.write_bytes(damaged.get(damage, bytes(content)))
    if damage == "missing":
        path.unlink()
    assert not is_whole(path)


def test_writer_that_fails_midway_leaves_nothing(tmp_path):
    def parts():
        yield ARRAY[:1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_array(tmp_path / "array.npy", parts(), shape=ARRAY.shape, dtype=np.int16)
    assert list(tmp_path.iterdir()) == []


def test_only_the_user_may_look_into_the_folder(tmp_path):
    write(tmp_path / "crops" / "array.npy")
    assert (tmp_path / "crops").stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_full_disk_is_told_and_leaves_the_file_before(tmp_path):
    """The kernel refuses to write files beyond a limit, as it does on a full disk."""
    path = tmp_path / "array.npy"
    write(path)
    script = f"""
import resource
from pathlib import Path
from tests.test_array_files import *
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with pytest.raises(CacheError, match="Free disk space, or name another folder by LDM_PROJECT"):
    write(Path({str(path)!r}), array=np.zeros((100, 100), dtype=np.int16))
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert np.array_equal(open_array(path), ARRAY)
    assert len(list(tmp_path.iterdir())) == 1


def test_file_in_the_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "crops").write_text("")
    with pytest.raises(CacheError, match="Cannot write"):
        write(tmp_path / "crops" / "array.npy")


def test_writers_at_once_leave_the_file_whole_at_all_times(tmp_path):
    path = tmp_path / "array.npy"

    def write_often(number):
        for _ in range(50):
            write(path, array=np.full((64, 64), 7, dtype=np.int16))
            assert is_whole(path)
            assert (open_array(path) == 7).all()

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(write_often, range(4)))
    assert [file.name for file in tmp_path.iterdir()] == ["array.npy"]
