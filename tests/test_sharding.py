"""Trainings that processes hold in parts: they learn, and are kept, as whole ones are."""

import json
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from ldm_project.config import TrainRunConfig
from ldm_project.diffusion.acceleration import checkpoint_gradients
from ldm_project.diffusion.diffusion_training import DiffusionTraining, train_diffusion
from ldm_project.diffusion.latents import Latents
from ldm_project.diffusion.models import ModelSpec, build_unet
from ldm_project.diffusion.processes import Processes
from ldm_project.diffusion.sharding import fits
from ldm_project.diffusion.training_states import load_training, save_training, take_up
from ldm_project.errors import InvalidInputError
from ldm_project.resolution import settings_of

SPEC = ModelSpec(2, (32, 32), "tiny")
ITERATIONS, HALF = 8, 4


def new_training(*, backend, seed):
    torch.manual_seed(seed)
    return DiffusionTraining(build_unet(SPEC, backend=backend), iterations=ITERATIONS)


def steps(training, processes):
    generator = torch.Generator().manual_seed(3)
    latents = Latents(torch.randn(8, *SPEC.latent_shape, generator=generator), scale=1.0)
    return train_diffusion(training, latents, batch_size=5, seed=5, processes=processes)


def go_on_in_parts(rank, count, folder, backend):
    """Takes up the training in the folder in one of several processes, and ends it."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)
    training = new_training(backend=backend, seed=1)  # other weights: the state decides
    training.shard(torch.device("cpu"), is_first=rank == 0)
    take_up(training, load_training(folder / "half.pt"), folder / "half.pt")
    if rank == 0:
        torch.save(training.averaged_unet.state_dict(), folder / "taken_up.pt")
    checkpoint_gradients(training.unet)
    losses = [step.loss for step in steps(training, Processes(rank, count))]
    if rank == 0:
        save_training(folder / "ended.pt", training, {})
        torch.save(training.averaged_unet.state_dict(), folder / "averaged.pt")
    (folder / f"{rank}.json").write_text(json.dumps({"losses": losses, "held": held(training)}))
    dist.destroy_process_group()


def held(training):
    """Returns how many numbers of each kind this process holds."""
    weights = list(training.unet.parameters())
    moments = [
        value
        for of_one in training.optimiser.state_dict()["adam"]["state"].values()
        for value in of_one.values()
        if value.ndim
    ]
    kinds = {
        "weights": weights,
        "gradients": [weight.grad for weight in weights if weight.grad is not None],
        "average": list(training.average.module.parameters()),
        "moments": moments,
    }
    return {kind: sum(number_here(tensor) for tensor in kinds[kind]) for kind in kinds}


def number_here(tensor):
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).numel()


def flat(tree):
    """Yields every tensor or number of a state, by its path."""
    if not isinstance(tree, dict):
        yield (), tree
        return
    for key, value in tree.items():
        for path, leaf in flat(value):
            yield (key, *path), leaf


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "count"), [("core", 2), ("generative", 3)])
def test_training_begun_whole_goes_on_in_parts_as_if_it_were_whole(
    tmp_path, warm_start, backend, count
):
    unbroken = new_training(backend=backend, seed=0)
    losses = [step.loss for step in steps(unbroken, Processes())]
    begun = new_training(backend=backend, seed=0)
    list(islice(steps(begun, Processes()), HALF))
    save_training(tmp_path / "half.pt", begun, {})
    multiprocessing.spawn(go_on_in_parts, (count, tmp_path, backend), nprocs=count)

    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(count)]
    for each in told:
        assert each["losses"] == pytest.approx(losses[HALF:], rel=1e-4)
    # Every number has its place in one process, and none has much more than its part.
    for kind, number in held(unbroken).items():
        here = [each["held"][kind] for each in told]
        assert sum(here) == number
        assert max(here) < 1.1 * number / count

    # What was taken up is there to be sampled from at once.
    taken_up = torch.load(tmp_path / "taken_up.pt")
    for name, weight in begun.averaged_unet.state_dict().items():
        assert torch.equal(taken_up[name], weight)
    # What is kept is whole: of the same names, shapes and values.
    ended = dict(flat(load_training(tmp_path / "ended.pt").values))
    expected = dict(flat(unbroken.state_dict()))
    assert ended.keys() == expected.keys()
    for path, value in expected.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(ended[path], value, rtol=1e-3, atol=1e-4)
        elif path[-1] != "params":
            assert ended[path] == value
    averaged = torch.load(tmp_path / "averaged.pt")
    for name, weight in unbroken.averaged_unet.state_dict().items():
        torch.testing.assert_close(averaged[name], weight, rtol=1e-3, atol=1e-4)


def test_one_process_has_nobody_to_share_with():
    with pytest.raises(InvalidInputError, match="use num_processes=2 or more, or fsdp=off"):
        settings_of(TrainRunConfig(fsdp="on"))
    with pytest.raises(InvalidInputError, match="use num_processes=2 or more, or fsdp=off"):
        settings_of(TrainRunConfig(fsdp="on", num_processes="1", resume="run"))
    settings_of(TrainRunConfig(fsdp="on", num_processes="2"))


def test_number_of_processes_may_come_from_the_launcher_or_the_training_to_resume(monkeypatch):
    settings_of(TrainRunConfig(fsdp="on", resume="run"))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    settings_of(TrainRunConfig(fsdp="on"))


def test_training_is_whole_where_it_leaves_half_of_the_memory(monkeypatch):
    gpu = SimpleNamespace(total_memory=16 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    large_3d, medium_3d = 436_630_000, 163_630_000
    assert fits(medium_3d, torch.device("cuda"))
    assert not fits(large_3d, torch.device("cuda"))
    assert fits(large_3d, torch.device("cpu"))
