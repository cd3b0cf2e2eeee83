"""The comparison of energies: its baseline is the library's own way, and its page says no more."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_grid_page, ldm_energy, ldm_gpu, ldm_ways
from benchmarks.ldm_energy_page import Report, Way, page
from benchmarks.ldm_gpu_page import GpuReport, GpuRow, TimeShares, TrainingRow, gpu_section
from ldm_project.diffusion.checkpoints import LdmCheckpoint
from ldm_project.diffusion.iso_quality import Setting
from ldm_project.diffusion.models import (
    ModelSpec,
    build_unet,
    build_vqgan,
    canonical_state,
    load_canonical_state,
)
from ldm_project.diffusion.quality import Estimate, Quality
from mlflow_carbon.metering.meter import Meter

ROOT = Path(__file__).parent.parent

QUALITY = Quality(
    frechet=Estimate(1.0, 0.5, 1.5),
    kid=Estimate(0.2, 0.1, 0.3),
    plane_frechet=Estimate(2.0, 1.5, 2.5),
    hu_wasserstein=12.0,
    pair_ms_ssim=0.4,
    memorised_fraction=0.0,
    repeated_fraction=0.0,
    accepted_fraction=1.0,
)


def way(name, cpu_s):
    return Way(name, wall_s=cpu_s, cpu_s=cpu_s, energy_joules=None)


def report():
    return Report(
        dims=2,
        size=(64, 64),
        iterations=(1400, 2000),
        precision="fp32",
        batch_size=16,
        num_rounds=3,
        baseline=way("a", 4.0),
        same_steps=way("ddpm 1000", 1.0),
        iso_quality=way("unipc 20", 0.05),
        ways=(way("ddpm 1000", 1.0), way("unipc 20", 0.05)),
        settings=(Setting("ddpm", 1000, 0.1, QUALITY), Setting("unipc", 20, 0.005, QUALITY)),
        differences_hu=(0.0, 14.2),
        stranger_difference_hu=144.4,
        real=QUALITY,
        reconstruction=QUALITY,
        measured="on a day on one core of a CPU",
    )


def test_page_gives_how_many_times_less_each_way_takes():
    text = page([report()], "")
    assert "| 2D 64x64 | (b) ours, same steps (ddpm 1000) | 1 | 1 | not measured | 4× |" in text
    assert "(c) ours, equal quality (unipc 20) | 0.05 | 0.05 | not measured | 80× |" in text


def test_page_gives_no_ratio_where_equal_quality_cannot_be_judged():
    doubt = "the autoencoder erases what would differ: reconstructions have KID 1.2."
    text = page([replace(report(), iso_quality=None, doubts=(doubt,))], "")
    assert "(c) ours" not in text
    assert f"Equal quality in 2D cannot be judged:\n\n- {doubt}\n" in text


def test_page_gives_no_ratio_but_reasons_where_no_setting_is_shown_to_be_as_good():
    reference, other = report().settings
    poor = replace(other, shortfalls=("by the second judge farther", "40% repeats"))
    text = page([replace(report(), iso_quality=None, settings=(reference, poor))], "")
    assert "(c) ours" not in text
    assert "none of these settings is shown to be as good as ddpm 1000" in text
    assert "\n- unipc 20: by the second judge farther; 40% repeats.\n" in text


def test_page_says_how_far_images_lie_from_those_of_the_same_noise():
    text = page([report()], "")
    assert "\n| 2D | ddpm 1000 | 1 |  | " in text
    assert "\n| 2D | unipc 20 | 0.05 | 14 | " in text
    assert "(two images of ddpm with other noise: in 2D 144)" in text


def test_difference_of_images_is_in_hu():
    black, grey = torch.full((2, 1, 4, 4), -1.0), torch.full((2, 1, 4, 4), -0.5)
    assert ldm_energy.mean_difference_hu(black, grey) == 500  # [-1, 1] is 2000 HU


def test_page_says_how_long_the_models_were_trained():
    text = page([report()], "")
    assert "in 2D a VQ-GAN of 1,400 iterations and a UNet of 2,000." in text


def test_page_says_how_many_rounds_and_images_there_were_of_each_dimension():
    text = page([report(), replace(report(), dims=3, num_rounds=2)], "")
    assert "in rounds (in 2D 3, in 3D 2)" in text
    assert "Images of each setting (in 2D 48, in 3D 32)" in text  # 16 a round


def test_page_says_when_and_on_what_each_dimension_was_measured():
    text = page([report(), replace(report(), dims=3, measured="on a later day")], "")
    assert "Measured in 2D on a day on one core of a CPU; in 3D on a later day." in text


def test_report_reads_back_as_it_was(tmp_path):
    poor = replace(report().settings[1], shortfalls=("40% repeats",))
    judged = replace(report(), settings=(report().settings[0], poor))
    doubtful = replace(judged, iso_quality=None, doubts=("too few samples.",))
    for written in (judged, doubtful):
        written.write(tmp_path / "kept" / "2d.json")
        assert Report.read(tmp_path / "kept" / "2d.json") == written


def test_page_is_made_from_the_reports_that_are_kept():
    """So one dimension is measured anew without the other."""
    reports = [Report.read(ldm_energy.kept_at(dims)) for dims in (2, 3)]
    gpu = GpuReport.read(ldm_energy.GPU_REPORT)
    on_gpu = gpu_section(gpu.sampling, gpu.training, gpu.note)
    assert ldm_energy.PAGE.read_text() == page(reports, on_gpu)


def text_of(path):
    return " ".join((ROOT / path).read_text().split())


def test_readme_and_page_of_quality_say_what_was_kept_of_slices():
    kept = Report.read(ldm_energy.kept_at(2))
    assert kept.iso_quality.name == "dpmpp_sde 100"
    times_less = round(kept.baseline.cpu_s / kept.iso_quality.cpu_s)
    assert f"or a {times_less}th of the usual way's" in text_of("README.md")
    assert f"{times_less} times less than the usual way" in text_of("docs/image_quality.md")


def test_page_of_quality_says_why_the_kept_volumes_cannot_be_judged():
    kept = Report.read(ldm_energy.kept_at(3))
    (doubt,) = kept.doubts
    alike = kept.settings[0].quality.pair_ms_ssim
    assert f"samples of 1000 steps have pairs alike by {alike:.2f}" in doubt
    text = text_of("docs/image_quality.md")
    assert f"pairs of DDPM's samples are alike by {alike:.2f}, and 0.76 ± 0.05 is allowed" in text
    assert f"KID ({kept.settings[0].quality.kid.value:.2f})" in text
    settings = zip(kept.settings, kept.differences_hu, strict=True)
    (nearest,) = (hu for it, hu in settings if (it.sampler, it.steps) == ("dpmpp_sde", 100))
    strangers = kept.stranger_difference_hu
    assert f"by {nearest:.0f} HU, two of DDPM's by {strangers:.0f}" in text


def test_gpu_rows_say_not_measured_without_a_gpu():
    rows = [line for line in gpu_section([], []).splitlines() if "| 256x256x192" in line]
    assert len(rows) == 5
    assert all(row.count("not measured") >= 4 for row in rows)


CASES = (ldm_gpu.Case(2, (32, 32), 2), ldm_gpu.Case(3, (32, 32, 32), 1))
CPU = torch.device("cpu")
ON_CPU = {"peak_tflop_per_s": 1.0, "cases": CASES, "model_size": "tiny"}


@pytest.mark.slow
def test_sampling_at_the_papers_sizes_is_measured_on_whatever_device_there_is():
    rows = list(ldm_gpu.sampling_rows(CPU, reference_steps=3, our_steps=(3, 2), **ON_CPU))
    assert [(row.size, row.way, row.steps) for row in rows[:3]] == [
        ((32, 32), "monai-generative, fp32", 3),
        ((32, 32), "ours, ddpm", 3),
        ((32, 32), "ours, unipc", 2),
    ]
    assert [row.size for row in rows[3:]] == [(32, 32, 32)] * 3
    for row in rows:
        taken, shares = row.measured
        assert taken.wall_s > 0
        assert row.tflop > 0
        assert 0.1 < shares.busy_fraction <= 1
        assert 0 < sum(fraction for _, fraction in shares.longest) <= 1
    assert "convolution" in gpu_section(rows, [])


@pytest.mark.slow
def test_training_at_the_papers_sizes_is_measured_on_whatever_device_there_is():
    rows = list(ldm_gpu.training_rows(CPU, num_iterations=2, **ON_CPU))
    assert [row.way for row in rows] == ["monai-generative, fp32", "ours, bf16"] * 2
    assert all(row.taken.wall_s > 0 and row.tflop > 0 for row in rows)
    (line, *_) = [it for it in gpu_section([], rows).splitlines() if it.startswith("| 32x32 ")]
    assert "| 2 | monai-generative, fp32 |" in line


def taking(joules):
    return ldm_ways.Taken(wall_s=2.0, cpu_s=1.0, energy_joules=joules)


def test_gpu_rows_give_times_less_energy_and_what_bounds_them():
    shares = TimeShares(0.97, (("convolution", 0.6), ("native_group_norm", 0.2)))
    rows = [
        GpuRow((64, 64), "medium", way, 1000, (taking(joules), shares), 40.0, 100.0)
        for way, joules in (("theirs", 800.0), ("ours", 100.0), ("unmeasured", None))
    ]
    lines = gpu_section(rows, []).splitlines()
    assert (
        "| 64x64 | medium | ours | 1000 | 100 | 8× | 2 | 20 of 100 (20%) "
        "| convolution 60%, native_group_norm 20%; busy 97% |"
    ) in lines
    assert any("| unmeasured | 1000 | not measured | not measured | 2 |" in it for it in lines)


def test_way_that_needs_more_memory_than_there_is_says_so_and_the_others_go_on():
    def too_large():
        raise torch.OutOfMemoryError

    assert ldm_gpu.unless_too_large(lambda: "measured") == "measured"
    rows = [
        TrainingRow((64, 64), "medium", 8, way, taken, 40.0, 100.0)
        for way, taken in (
            ("theirs", ldm_gpu.unless_too_large(too_large)),
            ("ours", taking(100.0)),
        )
    ]
    lines = gpu_section([], rows).splitlines()
    assert "| 64x64 | medium | 8 | theirs |" + " out of memory |" * 4 in lines
    assert "| 64x64 | medium | 8 | ours | 100 | not measured | 2 | 20 of 100 (20%) |" in lines


def test_what_a_chip_reaches_is_what_it_multiplies_in_a_time():
    assert ldm_gpu.reached_in_multiplication(CPU, edge=64, at_least_s=0.05) > 0


@pytest.mark.slow
def test_baseline_and_ours_sample_the_same_distribution():
    # one set of weights in both libraries, so 8 images of 1024 pixels differ by what DDPM drew
    spec = ModelSpec(2, (32, 32), "tiny")
    torch.manual_seed(0)
    networks = {}
    for backend in ("core", "generative"):
        unet, vqgan = build_unet(spec, backend=backend), build_vqgan(spec, backend=backend)
        if networks:
            load_canonical_state(unet, canonical_state(networks["core"].unet))
            load_canonical_state(vqgan, canonical_state(networks["core"].vqgan))
        networks[backend] = LdmCheckpoint(spec, unet.eval(), vqgan.eval(), latent_scale=0.5)
    theirs = ldm_ways.baseline(networks["generative"])(range(8))
    ours = ldm_ways.ours(networks["core"], "ddpm", 1000, precision="fp32")(range(8))
    assert theirs.shape == ours.shape
    assert abs(theirs.mean() - ours.mean()) < 0.1 * theirs.std()
    assert theirs.std() == pytest.approx(ours.std().item(), rel=0.1)


def test_an_image_of_a_batch_takes_its_share():
    meter = Meter()
    meter.start()
    taken, images = ldm_ways.measured(meter, lambda indices: torch.ones(len(indices)), range(4))
    meter.stop()
    assert len(images) == 4
    assert 0 <= taken.cpu_s < 1


def test_median_is_taken_of_each_figure():
    rounds = [ldm_ways.Taken(3.0, 1.0, None), ldm_ways.Taken(1.0, 2.0, 5.0)]
    assert ldm_energy.medians(rounds) == ldm_ways.Taken(2.0, 1.5, 5.0)


def test_pages_show_what_was_kept_of_the_gpu():
    kept = GpuReport.read(ldm_energy.GPU_REPORT)
    assert len(kept.sampling) == 6  # two sizes, three ways
    section = gpu_section(kept.sampling, kept.training, kept.note)
    assert ldm_energy.PAGE.read_text().endswith(section)
    assert gpu_grid_page.PAGE.read_text() == gpu_grid_page.page()


def test_readme_says_what_a_large_volume_took_on_the_gpu():
    rows = GpuReport.read(ldm_energy.GPU_REPORT).sampling
    theirs, _, ours = (row.measured[0] for row in rows if row.size == (256, 256, 192))
    text = " ".join((Path(__file__).parent.parent / "README.md").read_text().split())
    assert (
        f"took {ours.energy_joules:.0f} J by 30 of our steps and "
        f"{theirs.energy_joules / 1000:.1f} kJ by monai-generative's 1000"
    ) in text


def test_kept_report_of_a_gpu_reads_back_as_it_was(tmp_path):
    taken = ldm_ways.Taken(wall_s=2.0, cpu_s=1.0, energy_joules=300.0)
    shares = TimeShares(0.5, (("convolution", 0.4),))
    report = GpuReport(
        (GpuRow((64, 64), "medium", "ours", 30, (taken, shares), 40.0, 100.0),),
        (TrainingRow((64, 64), "medium", 8, "ours", None, 3.0, 100.0),),
        note="one GPU",
    )
    report.write(tmp_path / "report.json")
    assert GpuReport.read(tmp_path / "report.json") == report
    assert GpuReport.read(tmp_path / "none.json") == GpuReport()


def test_equal_quality_is_chosen_by_cpu_time_where_no_energy_was_measured():
    settings = [Setting("ddpm", 1000, None, QUALITY), Setting("unipc", 20, None, QUALITY)]
    ways = {"ddpm 1000": way("ddpm 1000", 1.0), "unipc 20": way("unipc 20", 0.05)}
    best = ldm_energy.cheapest_by_cpu_time(settings, ways)
    assert (best.sampler, best.steps) == ("unipc", 20)
    assert best.co2e_g_per_sample is None  # CPU seconds are no carbon
