"""Trainings that stop and go on: as if they had never stopped, and in the run they began in."""

import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from ldm_project.config import RFLOW, TrainRunConfig, VqganRunConfig
from ldm_project.ct.data import DataSpec, batches, open_scans
from ldm_project.diffusion.diffusion_training import DiffusionTraining, train_diffusion
from ldm_project.diffusion.latents import Latents
from ldm_project.diffusion.models import ModelSpec, build_discriminator, build_unet, build_vqgan
from ldm_project.diffusion.training_states import load_training, save_training, take_up
from ldm_project.diffusion.vqgan_training import VqganTraining, train_vqgan
from ldm_project.errors import CheckpointError, InvalidInputError
from ldm_project.resolution import settings_of
from ldm_project.runs.interrupted_trainings import as_started, state_file
from tests.fakes.commands import run_command, runs_of
from tests.fakes.recorded import recorded, windows_of
from tests.fakes.trainings import iterations_done, wait_for_iteration

SPECS = {2: ModelSpec(2, (32, 32), "tiny"), 3: ModelSpec(3, (16, 16, 16), "tiny")}
SMALL = {"size": "32", "vqgan_iterations": 12, "iterations": 20, "batch_size": "2"}


@pytest.fixture(params=(2, 3), ids=("2d", "3d"))
def spec(request):
    return SPECS[request.param]


def new_diffusion(spec, *, seed=0, objective="diffusion"):
    torch.manual_seed(seed)
    return DiffusionTraining(build_unet(spec), iterations=6, objective=objective)


def new_vqgan(spec, *, seed=0):
    torch.manual_seed(seed)
    return VqganTraining(build_vqgan(spec), build_discriminator(spec), iterations=10)


def diffusion_steps(training, spec):
    latents = Latents(torch.randn(8, *spec.latent_shape, generator=generator()), scale=1.0)
    return train_diffusion(training, latents, batch_size=2, seed=5)


def vqgan_steps(training, spec):
    scans = open_scans(DataSpec("phantom", spec.size, num_phantoms=3))
    images = batches(scans, batch_size=2, num_skipped=training.iteration)
    return train_vqgan(training, images)


def generator():
    return torch.Generator().manual_seed(3)


def weights_of(network):
    return list(network.state_dict().values())


def assert_equal_weights(one, other):
    pairs = zip(weights_of(one), weights_of(other), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["diffusion", RFLOW])
def test_interrupted_diffusion_training_ends_bitwise_as_an_unbroken_one(spec, tmp_path, objective):
    unbroken = new_diffusion(spec, objective=objective)
    losses = [step.loss for step in diffusion_steps(unbroken, spec)]
    first = new_diffusion(spec, objective=objective)
    before = [step.loss for step in islice(diffusion_steps(first, spec), 4)]
    save_training(tmp_path / "state.pt", first, {})
    second = new_diffusion(spec, seed=1, objective=objective)  # other weights: the state decides
    take_up(second, load_training(tmp_path / "state.pt"), tmp_path / "state.pt")
    after = [step.loss for step in diffusion_steps(second, spec)]
    assert before + after == losses
    assert_equal_weights(second.unet, unbroken.unet)
    assert_equal_weights(second.averaged_unet, unbroken.averaged_unet)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [3, 7, 9])  # a plain, a quantised, an adversarial stage
def test_interrupted_vqgan_training_ends_bitwise_as_an_unbroken_one(spec, tmp_path, stop):
    unbroken = new_vqgan(spec)
    steps = list(vqgan_steps(unbroken, spec))
    first = new_vqgan(spec)
    before = list(islice(vqgan_steps(first, spec), stop))
    save_training(tmp_path / "state.pt", first, {})
    second = new_vqgan(spec, seed=1)
    take_up(second, load_training(tmp_path / "state.pt"), tmp_path / "state.pt")
    assert before + list(vqgan_steps(second, spec)) == steps
    assert_equal_weights(second.vqgan, unbroken.vqgan)
    assert_equal_weights(second.discriminator, unbroken.discriminator)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_damaged_state_is_told_and_changes_nothing(tmp_path, damage):
    spec = SPECS[2]
    path = tmp_path / "state.pt"
    save_training(path, new_diffusion(spec), {})
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    damaged = {"truncated": content[:-100], "empty": b"", "text": b"weights"}.get(damage, content)
    path.write_bytes(bytes(damaged))
    with pytest.raises(CheckpointError, match=r"state .*state\.pt is damaged .* start anew"):
        load_training(path)


def test_state_of_other_networks_is_refused(tmp_path):
    path = tmp_path / "state.pt"
    save_training(path, new_diffusion(SPECS[3]), {})
    with pytest.raises(CheckpointError, match="it does not fit the networks"):
        take_up(new_diffusion(SPECS[2]), load_training(path), path)


@pytest.mark.slow
def test_full_disk_leaves_the_state_before_and_the_training_goes_on(tmp_path, warm_start):
    """The kernel refuses to write files beyond a limit, as it does on a full disk."""
    script = """
import resource, sys
from pathlib import Path
from tests.test_interrupted_training import SPECS, new_diffusion
from ldm_project.config import TrainRunConfig
from ldm_project.runs.interrupted_trainings import StateKeeper
from ldm_project.resolution import train_settings
keeper = StateKeeper("run", new_diffusion(SPECS[2]), train_settings(TrainRunConfig()))
keeper.save(1)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
keeper.save(2)
keeper.save(3)
print("went on")
"""
    environment = {**os.environ, "LDM_PROJECT_CACHE": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout == "went on\n"
    assert result.stderr.count("Cannot write the training's state") == 1
    folder = tmp_path / "trainings"
    assert [path.name for path in folder.iterdir()] == ["run.pt"]
    load_training(folder / "run.pt")


def run_of(command, *, but=None):
    (run,) = [run for run in runs_of(command) if run.info.run_id != but]
    return run


def losses_of(run, key="loss"):
    """Returns the loss by iteration; what was done twice must have come out the same."""
    points = MlflowClient().get_metric_history(run.info.run_id, key)
    by_step = {point.step: point.value for point in points}
    assert all(by_step[point.step] == point.value for point in points)
    return by_step


@pytest.mark.slow
def test_killed_training_goes_on_in_its_run_with_the_energy_of_both_parts(store):
    run_command(VqganRunConfig(size="32", vqgan_iterations=12, batch_size="2"))
    command = [sys.executable, "-m", "ldm_project", "train", "--iterations", "200"]
    command += ["--size", "32", "--batch-size", "2", "--vqgan-iterations", "12"]
    command += ["--checkpoint-every", "5"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store}
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    killed = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    states = Path(os.environ["LDM_PROJECT_CACHE"]) / "trainings"
    wait_for_iteration(killed, states, 50)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (state,) = states.glob("*.pt")
    run_id = state.stem
    done = iterations_done(states)
    assert 50 <= done < 200
    assert MlflowClient().get_run(run_id).info.status == "RUNNING"

    run_command(TrainRunConfig(resume=run_id))  # all else is as it was
    run = MlflowClient().get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "train 2D 32² 200 iterations seed 0"
    assert not state.exists()
    assert set(losses_of(run)) == set(range(20, 201, 20))
    # windows of 20: two at least by the process that was killed, seven at least by the other
    windows = windows_of(run_id).values()
    assert len(windows) >= 9
    assert int(run.data.tags["carbon.num_units"]) >= 40 + (200 - done)
    assert recorded(run)["energy_kwh"] >= 0.99 * sum(window.energy_kwh for window in windows)


@pytest.mark.slow
def test_training_stopped_by_an_error_logs_the_losses_of_an_unbroken_one(store, monkeypatch):
    run_command(TrainRunConfig(**SMALL))
    unbroken = run_of("train")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("ldm_project.runs.training_previews.LdmPreview.log", interrupt_at(15))
        run_command(TrainRunConfig(**SMALL))
    stopped = run_of("train", but=unbroken.info.run_id)
    assert stopped.info.status == "FAILED"
    assert load_training(state_file(stopped.info.run_id)).values["iteration"] == 14
    run_command(TrainRunConfig(resume=stopped.info.run_id))
    resumed = MlflowClient().get_run(stopped.info.run_id)
    assert resumed.info.status == "FINISHED"
    assert losses_of(resumed) == losses_of(unbroken)
    validation = losses_of(unbroken, "validation_loss")
    assert losses_of(resumed, "validation_loss").items() <= validation.items()


def interrupt_at(iteration):
    def log(preview, now):
        if now == iteration:
            raise KeyboardInterrupt

    return log


def interrupted_vqgan_run(monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("ldm_project.runs.training_previews.VqganPreview.log", interrupt_at(9))
        run_command(VqganRunConfig(size="32", vqgan_iterations=12, batch_size="2"))
    return run_of("vqgan").info.run_id


@pytest.mark.slow
def test_vqgan_goes_on_too_and_other_commands_and_parameters_are_refused(store, monkeypatch):
    run_id = interrupted_vqgan_run(monkeypatch)
    with pytest.raises(InvalidInputError, match="is one of vqgan: use `-e vqgan`"):
        run_command(TrainRunConfig(resume=run_id))
    with pytest.raises(InvalidInputError, match=r"size is '64', but .* started with '32'\. Leave"):
        run_command(VqganRunConfig(resume=run_id, size="64"))
    run_command(VqganRunConfig(resume=run_id))
    assert run_of("vqgan").info.status == "FINISHED"
    with pytest.raises(CheckpointError, match=r"no state of run .* ended well"):
        run_command(VqganRunConfig(resume=run_id))


def test_training_begun_before_there_was_a_choice_of_loss_keeps_its_own(store):
    with mlflow.start_run() as run:
        pass
    begun_with = {"command": "train", "iterations": 6}
    save_training(state_file(run.info.run_id), new_diffusion(SPECS[2]), begun_with)
    resumed = as_started(settings_of(TrainRunConfig(resume=run.info.run_id)))
    assert (resumed.iterations, resumed.loss) == (6, "absolute")


def test_unknown_run_is_named(store):
    with pytest.raises(InvalidInputError, match="resume is 'nowhere', but sqlite"):
        run_command(TrainRunConfig(resume="nowhere"))


@pytest.mark.slow
def test_run_that_mlflow_made_for_the_resuming_says_which_one_goes_on(store, monkeypatch):
    run_id = interrupted_vqgan_run(monkeypatch)
    made = mlflow.start_run()
    mlflow.end_run()
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    run_command(VqganRunConfig(resume=run_id))
    tags = MlflowClient().get_run(made.info.run_id).data.tags
    assert tags["ldm.resumed_run_id"] == run_id
    assert tags["mlflow.runName"] == "resume vqgan"
    assert MlflowClient().get_run(run_id).info.status == "FINISHED"
