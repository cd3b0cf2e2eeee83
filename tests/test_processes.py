"""Several processes: who does what, what they tell each other, and what cannot be shared."""

import json
import os
import signal
import time

import mlflow
import pytest
import torch
import torch.distributed as dist
from sqlalchemy import event
from sqlalchemy.engine import Engine
from torch import multiprocessing

from ldm_project.config import SynthConfig, TrainRunConfig
from ldm_project.diffusion.models import ModelSpec, build_unet
from ldm_project.diffusion.processes import ALONE, Processes, check_devices, ended_in_order
from ldm_project.errors import InvalidInputError
from ldm_project.resolution import as_interrupted, settings_of, synth_settings


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_item_of_a_batch_is_one_process_s(count):
    shares = [Processes(rank, count).share(torch.arange(8)) for rank in range(count)]
    assert sorted(torch.cat(shares).tolist()) == list(range(8))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_process_alone_gets_back_what_it_tells():
    ALONE.meet()
    assert ALONE.shared("a") == "a"
    assert ALONE.gathered("a") == ["a"]
    assert ALONE.mean(torch.tensor(2.0)) == 2.0
    ALONE.note("key", "text")
    assert ALONE.noted("key") is None  # no launcher would start it anew


def read_from_files(rank, folder):
    """Notes what a process gets of files that are, or are not, the first one's too."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    processes = Processes(rank, 2)

    def read(path):
        return f"{path.name} read by {rank}" if path.is_file() else None

    names = (("seen", "seen"), ("seen", "missing"), ("missing", "seen"), ("missing", "missing"))
    got = [processes.shared_file(folder / each[rank], read) for each in names]
    (folder / f"{rank}.json").write_text(json.dumps(got))
    dist.destroy_process_group()


@pytest.mark.slow
def test_file_is_read_where_it_is_seen_and_sent_where_it_is_not(tmp_path, warm_start):
    (tmp_path / "seen").write_text("a")
    multiprocessing.spawn(read_from_files, (tmp_path,), nprocs=2)
    first, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == ["seen read by 0", "seen read by 0", None, None]
    assert other == ["seen read by 1", "seen read by 0", None, None]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TrainRunConfig(num_processes="9"), "is 9, but there are 8 images of an iteration"),
        # 20 samples in batches of 4
        (
            SynthConfig(num_processes="6"),
            "is 6, but there are 5 batches of samples to share; use 5",
        ),
        (SynthConfig(num_processes="0"), "num_processes is '0'; give a whole number above zero"),
        (SynthConfig(num_processes="two"), "num_processes is 'two'"),
        (TrainRunConfig(max_restarts=-1), "max_restarts is -1; give 0 or more"),
    ],
)
def test_processes_that_nothing_is_left_for_are_refused(config, message):
    with pytest.raises(InvalidInputError) as caught:
        settings_of(config)
    assert message in str(caught.value)


def test_samples_are_made_in_the_same_batches_by_any_number_of_processes():
    sizes = {
        synth_settings(SynthConfig(num_samples="100", num_processes=count)).batch_size
        for count in ("auto", "1", "4")
    }
    assert sizes == {20}  # 100 images in 5 windows


def test_interrupted_training_may_go_on_in_another_number_of_processes():
    started_with = {"iterations": 7, "num_processes": "4", "device": "cpu"}
    as_before = as_interrupted(TrainRunConfig(resume="run"), started_with)
    assert (as_before.num_processes, as_before.device, as_before.iterations) == ("4", "cpu", 7)
    sharded = started_with | {"fsdp": "on"}
    alone = as_interrupted(TrainRunConfig(resume="run", num_processes="1"), sharded)
    assert (alone.num_processes, alone.fsdp) == ("1", "auto")
    assert as_interrupted(TrainRunConfig(resume="run"), sharded).fsdp == "on"
    anew = as_interrupted(TrainRunConfig(resume="run", num_processes="1"), started_with)
    assert (anew.num_processes, anew.resume) == ("1", "run")


def test_processes_on_a_cpu_need_no_devices():
    check_devices("cpu", 64)


@pytest.mark.gpu
def test_each_process_needs_a_gpu_of_its_own():
    num_gpus = torch.cuda.device_count()
    with pytest.raises(InvalidInputError, match=f"torch sees {num_gpus}; use num_processes"):
        check_devices(None, num_gpus + 1)
    with pytest.raises(InvalidInputError, match="takes a GPU of its own; use device=cuda"):
        check_devices("cuda:0", 2)


@pytest.mark.parametrize("backend", ["core", "generative"])
def test_every_weight_that_processes_average_gets_a_gradient(backend):
    """One without would keep them waiting for each other."""
    spec = ModelSpec(2, (32, 32), "tiny")
    unet = build_unet(spec, backend=backend)
    unet(torch.randn(1, *spec.latent_shape), torch.tensor([5])).sum().backward()
    weights = [weight for weight in unet.parameters() if weight.requires_grad]
    assert all(weight.grad is not None for weight in weights)


@pytest.fixture
def ended_at_a_metric():
    """This process is told to end while its store is in the middle of writing a metric."""

    def tell_to_end(_connection, _cursor, statement, *_):
        if "INSERT INTO metrics" in statement:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    event.listen(Engine, "after_cursor_execute", tell_to_end)
    yield
    event.remove(Engine, "after_cursor_execute", tell_to_end)
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("ended_at_a_metric")
def test_process_that_is_to_end_finishes_its_transaction_and_closes_its_run(store):
    """A transaction that is broken off can leave the sqlite file locked for this process too."""
    with pytest.raises(SystemExit), ended_in_order(is_first=True), mlflow.start_run() as run:
        mlflow.log_metric("loss", 2.0)
        time.sleep(60)
    client = mlflow.MlflowClient(store)
    assert [point.value for point in client.get_metric_history(run.info.run_id, "loss")] == [2.0]
    assert client.get_run(run.info.run_id).info.status == "FAILED"
