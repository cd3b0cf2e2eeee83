"""The curve of quality against CPU time: its figures, and the models that the docs are made of."""

import re
from pathlib import Path

import pytest
import torch

from benchmarks import image_quality
from ldm_project.config import DEFAULT_BATCH_SIZE_BY_DIMS

ROOT = Path(__file__).parent.parent


def test_point_gives_decibels_and_hounsfield_units():
    images = torch.zeros(3, 1, 8, 8)
    point = image_quality.point_of(images, images + 0.02, iteration=5, cpu_s=1.5)
    # 10 log10(2² / 0.02²) = 40 dB; 0.02 of a range where 1 is 1000 HU
    assert point.psnr_db == pytest.approx(40.0)
    assert point.mean_error_hu == pytest.approx(20.0)
    assert point.hu_wasserstein == pytest.approx(20.0)


def test_make_page_models_trains_what_the_pages_are_made_of():
    recipe = (ROOT / "Makefile").read_text()
    found = re.findall(
        r"-e train -P dims=(\d) -P vqgan_iterations=(\d+).* -P iterations=(\d+)", recipe
    )
    assert {int(d): (int(v), int(u)) for d, v, u in found} == image_quality.ITERATIONS
    batch_sizes = re.findall(r"-P batch_size=(\d+)", recipe)
    assert batch_sizes == [str(image_quality.UNET_BATCH_SIZE[3])]
    assert image_quality.UNET_BATCH_SIZE[2] == DEFAULT_BATCH_SIZE_BY_DIMS[2]
    assert f"-P data=phantom:{image_quality.NUM_PHANTOMS}\n" in recipe


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_command_prints_the_curve_and_shows_the_images(dims, tmp_path, capsys, monkeypatch):
    path = tmp_path / "shown.png"
    options = ["--dims", str(dims), "--iterations", "8", "--unet-iterations", "2"]
    options += ["--phantoms", "20"]
    monkeypatch.setattr("sys.argv", ["image_quality", *options, "--picture", str(path)])
    image_quality.main()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [int(row.split("|")[1]) for row in rows] == list(range(1, 9))
    assert path.stat().st_size > 1000
