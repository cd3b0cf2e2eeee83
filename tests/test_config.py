"""Defaults stand once: config.py, command line and MLproject agree; bad values are named."""

import json
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ldm_project import config, parsing, resolution
from ldm_project.__main__ import formatted, main
from ldm_project.errors import InvalidInputError
from ldm_project.study.presets import STUDIES
from mlflow_carbon.cli import cli as carbon_main

MLPROJECT = Path(__file__).parent.parent / "MLproject"
CONFIG_BY_ENTRY_POINT = {
    "vqgan": config.VqganRunConfig,
    "train": config.TrainRunConfig,
    "synth": config.SynthConfig,
    "estimate": config.EstimateConfig,
    "quality": config.QualityConfig,
    "study": config.StudyConfig,
    "compare": config.CompareConfig,
}


@pytest.mark.parametrize("entry_point", CONFIG_BY_ENTRY_POINT)
def test_mlproject_parameters_are_the_dataclass_fields(entry_point):
    declared = yaml.safe_load(MLPROJECT.read_text())["entry_points"][entry_point]["parameters"]
    expected = {field.name: field.default for field in fields(CONFIG_BY_ENTRY_POINT[entry_point])}
    assert {name: parameter["default"] for name, parameter in declared.items()} == expected


@pytest.mark.parametrize("entry_point", CONFIG_BY_ENTRY_POINT)
def test_mlproject_passes_every_parameter_to_the_command(entry_point):
    content = yaml.safe_load(MLPROJECT.read_text())["entry_points"][entry_point]
    module = "mlflow_carbon" if entry_point == "compare" else "ldm_project"
    options = " ".join(f"--{name.replace('_', '-')} {{{name}}}" for name in content["parameters"])
    assert content["command"] == f"python -m {module} {entry_point} {options}"


@pytest.mark.parametrize("command", ["vqgan", "train", "synth", "estimate", "quality", "study"])
def test_command_line_defaults_are_the_dataclass_defaults(command):
    options = {option.name: option.default for option in main.commands[command].params}
    if command != "study":  # whose --dry-run is a parameter of MLproject too
        del options["dry_run"]
    config_class = CONFIG_BY_ENTRY_POINT[command]
    assert options == {field.name: field.default for field in fields(config_class)}


def test_compare_takes_every_parameter_of_mlproject():
    options = {option.name for option in carbon_main.commands["compare"].params}
    assert {field.name for field in fields(config.CompareConfig)} <= options


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--pue", "0.9", "PUE is 0.9"), ("--region", "Atlantis", "region 'Atlantis'")],
)
def test_dry_run_refuses_what_the_run_would(option, value, message):
    result = CliRunner().invoke(main, ["synth", option, value, "--dry-run"])
    assert result.exit_code == 1
    assert message in result.stderr


def test_dry_run_prints_what_auto_becomes():
    result = CliRunner().invoke(main, ["synth", "--dims", "3", "--dry-run"])
    assert result.exit_code == 0, result.output
    resolved = json.loads(result.stdout)
    assert resolved["size"] == "32x32x32"
    assert resolved["num_samples"] == "20"
    assert resolved["batch_size"] == "4"
    assert [resolved[name] for name in ("region", "pue")] == ["WORLD", "1"]
    assert (resolved["month"], resolved["intensity_set"]) == ("2024", "ember")
    assert "WORLD 471.1 g/kWh (2024, ember)" in result.stderr


def test_project_parameter_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("MLFLOW_CARBON_REGION", "Poland")
    monkeypatch.setenv("MLFLOW_CARBON_PUE", "1.2")
    chosen = CliRunner().invoke(main, ["synth", "--region", "Sweden", "--dry-run"]).stdout
    assert [json.loads(chosen)[name] for name in ("region", "pue")] == ["SE", "1.2"]


@pytest.mark.parametrize(
    ("parameters", "batch_size"),
    [
        ({}, 4),  # 20 images in 5 windows
        ({"num_samples": "1000"}, 32),  # the most
        ({"num_samples": "3"}, 1),
        # 2**16 latent positions at most: 128² of 512² leave room for 4, 64·64·48 for none other
        ({"size": "512", "model_size": "medium", "num_samples": "1000"}, 4),
        ({"dims": 3, "size": "256x256x192", "model_size": "medium", "num_samples": "99"}, 1),
        ({"batch_size": "7"}, 7),
    ],
)
def test_batch_fills_a_device_and_leaves_windows_for_a_spread(parameters, batch_size):
    assert resolution.synth_settings(config.SynthConfig(**parameters)).batch_size == batch_size


@pytest.mark.parametrize(
    ("size", "dims", "model_size", "axes"),
    [
        ("auto", 2, "tiny", (64, 64)),
        ("auto", 3, "tiny", (32, 32, 32)),
        ("192", 2, "medium", (192, 192)),
        ("256x256x192", 3, "medium", (256, 256, 192)),
        ("64X32", 2, "tiny", (64, 32)),
    ],
)
def test_size_resolves_to_one_number_per_axis(size, dims, model_size, axes):
    assert parsing.resolve_size(size, dims, model_size) == axes


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"dims": 4}, "dims is 4; it must be 2"),
        ({"size": "large"}, "size is 'large'; give one number"),
        ({"size": "-8"}, "size is '-8'; give one number"),
        ({"size": "64x64x64"}, "has 3 axes but dims is 2"),
        # tiny halves twice in the VQ-GAN and once in the UNet: divisible by 8
        ({"size": "100"}, "100 is not divisible by 8, which model_size tiny needs; use 96"),
        # medium halves once more: divisible by 16
        ({"size": "72", "model_size": "medium"}, "not divisible by 16"),
        ({"model_size": "huge"}, "model_size is 'huge'; use one of tiny, small, medium, large."),
        ({"batch_size": "0"}, "batch_size is '0'; give a whole number above zero"),
        ({"num_samples": "many"}, "num_samples is 'many'"),
        ({"steps": 0}, "steps is 0; give 1 to 1000"),
        ({"steps": 1001}, "steps is 1001"),
        (
            {"sampler": "euler"},
            "sampler is 'euler'; use one of auto, ddpm, ddim, dpmpp, dpmpp_sde, unipc, rflow.",
        ),
        ({"backend": "jax"}, "backend is 'jax'"),
        ({"slice_axis": "oblique"}, "slice_axis is 'oblique'"),
        ({"iterations": 0}, "iterations is 0; give 1 or more."),
        ({"spacing_mm": "0"}, "spacing_mm is '0'"),
        ({"spacing_mm": "1x2"}, "spacing_mm is '1x2'"),
        ({"pue": "low"}, "pue is 'low'; give a number such as 1.2"),
    ],
)
def test_bad_parameter_is_named_with_its_value_and_its_fix(parameters, message):
    with pytest.raises(InvalidInputError) as caught:
        resolution.settings_of(config.SynthConfig(**parameters))
    assert message in str(caught.value)


def test_bad_parameter_ends_the_command_line_with_one_line():
    result = CliRunner().invoke(main, ["synth", "--size", "large"])
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "Error: size is 'large'; give one number (192) or one per axis (256x256x192)."
    ]


def parameter_rows():
    """Returns the table of parameters as docs/usage.md has it: one row per meaning."""
    entry_points = {}
    for entry_point, config_class in CONFIG_BY_ENTRY_POINT.items():
        for field in fields(config_class):
            choices = ", ".join(f"`{choice}`" for choice in field.metadata["choices"])
            meaning = field.metadata["help"] + (f" One of {choices}." if choices else "")
            row = (field.name, str(field.default), meaning)
            entry_points.setdefault(row, []).append(entry_point)
    return [
        f"| `{name}` | `{default}` | {', '.join(users)} | {meaning} |"
        for (name, default, meaning), users in entry_points.items()
    ]


def test_documented_parameters_are_the_dataclass_fields():
    page = (MLPROJECT.parent / "docs" / "usage.md").read_text()
    documented = [
        line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 5
    ]
    assert documented == parameter_rows(), "\n".join(parameter_rows())


def values_of(settings):
    """Yields every value of a record and of the records in it; the texts they came from are out."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        for each in value if isinstance(value, tuple) else (value,):
            if is_dataclass(each) and field.name != "config":
                yield from values_of(each)
            elif field.name != "config":
                yield each


@pytest.mark.parametrize("command", ["vqgan", "train", "synth", "estimate", "quality"])
def test_no_auto_gets_through_the_door(command):
    found = resolution.settings_of(CONFIG_BY_ENTRY_POINT[command]())
    assert found.command == command
    assert config.AUTO not in list(values_of(found))


def test_training_that_a_command_sets_off_has_a_batch_size_of_its_own():
    found = resolution.synth_settings(config.SynthConfig(batch_size="7", vqgan_iterations=9))
    assert found.batch_size == 7
    assert found.training.batch_size == config.DEFAULT_BATCH_SIZE_BY_DIMS[2]
    assert found.training.vqgan_training.iterations == 9


@pytest.mark.parametrize(
    ("dims", "size"),
    [(2, (256, 256)), (3, (192, 192, 192))],  # section 3.2 of the paper
)
def test_paper_preset_sets_what_the_paper_says_and_leaves_widths_and_steps(dims, size):
    config_of = config.SynthConfig(dims=dims, preset="paper", model_size="medium", steps=200)
    settings = resolution.settings_of(config_of)
    training = settings.training
    assert (settings.size, settings.sampler, settings.steps) == (size, "ddpm", 200)
    assert (settings.batch_size, settings.num_samples) == (1, 50)
    # 120 scans, 50 epochs and 6000 iterations: section 2.2 and 2.4
    assert (training.batch_size, training.iterations, training.iterations_per_window) == (
        (1, 6000, 120)
    )
    assert (training.objective, training.loss) == ("diffusion", "absolute")
    assert not training.checkpoints_gradients
    assert training.vqgan_training.batch_size == 1
    assert training.vqgan_training.patch_size is None
    assert settings.resolved()["sampler"] == "ddpm"


def test_paper_preset_is_that_of_the_study():
    train = resolution.settings_of(config.TrainRunConfig(preset="paper"))
    study = STUDIES["paper"]
    assert (train.batch_size, train.size) == (study.batch_size, study.reference_size[2])
    assert train.iterations == study.num_windows * study.iterations_per_window


def test_given_parameters_win_over_the_preset():
    given = {"iterations": 7, "batch_size": "2", "size": "64x64", "gradient_checkpointing": "on"}
    train = resolution.settings_of(config.TrainRunConfig(preset="paper", **given))
    assert (train.iterations, train.batch_size, train.size) == (7, 2, (64, 64))
    assert (train.iterations_per_window, train.checkpoints_gradients) == (7, True)
    squared = resolution.settings_of(config.TrainRunConfig(preset="paper", loss="squared"))
    assert squared.loss == "squared"
    sampled = resolution.settings_of(config.SynthConfig(preset="paper", sampler="ddim"))
    assert sampled.sampler == "ddim"


def test_preset_that_nobody_knows_is_refused_in_a_sentence():
    with pytest.raises(InvalidInputError) as caught:
        resolution.settings_of(config.VqganRunConfig(preset="nature"))
    assert str(caught.value) == "preset is 'nature'; use one of auto, paper."


def test_parameters_of_a_preset_stay_when_they_are_resolved_again():
    once = resolution.settings_of(config.SynthConfig(preset="paper", batch_size="3"))
    assert resolution.settings_of(once.config) == once


@pytest.mark.parametrize(
    ("data", "number"),
    [
        ("phantom", config.NUM_PHANTOMS),
        ("phantom:320", 320),
        ("/data/ct", None),
        ("phantoms", None),
    ],
)
def test_data_may_name_a_number_of_phantoms(data, number):
    assert parsing.num_phantoms(data) == number


@pytest.mark.parametrize("data", ["phantom:", "phantom:1", "phantom:-4", "phantom:many"])
def test_number_of_phantoms_must_leave_some_to_hold_out(data):
    result = CliRunner().invoke(main, ["train", "--data", data, "--dry-run"])
    assert result.exit_code == 1
    assert f"data is '{data}'; give phantom:N, of 2 phantoms or more." in result.stderr


def test_help_fits_80_columns_and_cuts_no_sentence():
    result = CliRunner().invoke(main, ["--help"], terminal_width=80)
    assert "..." not in result.stdout.partition("Commands:")[2]
    assert "Train and register a VQ-GAN, the autoencoder that" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_warning_of_ours_is_a_line_without_its_place_in_the_code():
    assert formatted("all of one patient", UserWarning, config.__file__, 7) == (
        "Warning: all of one patient\n"
    )
    others = formatted("theirs", UserWarning, yaml.__file__, 7)
    assert others.startswith(f"{yaml.__file__}:7: UserWarning: theirs")


@pytest.mark.parametrize(
    ("given", "sampler"),
    [
        ({}, "dpmpp_sde"),
        ({"dims": 3}, "unipc"),
        ({"objective": "rflow"}, "rflow"),
        ({"dims": 3, "objective": "rflow"}, "rflow"),
        ({"sampler": "ddim"}, "ddim"),
    ],
)
def test_sampler_left_alone_is_the_one_that_is_judged_best(given, sampler):
    settings = resolution.settings_of(config.SynthConfig(**given))
    assert settings.sampler == settings.resolved()["sampler"] == sampler
