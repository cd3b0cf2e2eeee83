"""Checkpoints come back as they were saved, or are refused by name; a failed save harms nothing."""

import json

import pytest
import torch

from ldm_project.checkpoints import load_ldm, load_vqgan, save_ldm, save_vqgan
from ldm_project.errors import CheckpointError
from ldm_project.models import ModelSpec, build_unet, build_vqgan, canonical_state

SPECS = {2: ModelSpec(2, (32, 32), "tiny"), 3: ModelSpec(3, (16, 16, 16), "tiny")}
AS_SAVED = {"backend": "core", "device": "cpu"}

pytestmark = pytest.mark.filterwarnings("ignore:.*autocast:FutureWarning")


@pytest.fixture
def ldm_folder(tmp_path):
    folder = tmp_path / "ldm"
    spec = SPECS[2]
    save_ldm(folder, spec, build_unet(spec), build_vqgan(spec), 0.7)
    return folder


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("backend", ["core", "generative"])
def test_ldm_comes_back_as_it_was_saved_in_either_backend(tmp_path, dims, backend):
    spec = SPECS[dims]
    unet, vqgan = build_unet(spec), build_vqgan(spec)
    save_ldm(tmp_path / "ldm", spec, unet, vqgan, 0.7)
    loaded = load_ldm(tmp_path / "ldm", backend=backend, device="cpu")
    assert (loaded.spec, loaded.latent_scale) == (spec, 0.7)
    for before, after in ((unet, loaded.unet), (vqgan, loaded.vqgan)):
        state, loaded_state = canonical_state(before), canonical_state(after)
        assert state.keys() == loaded_state.keys()
        assert all(torch.equal(state[name], loaded_state[name]) for name in state)


def test_files_are_safetensors_with_a_config_beside_them(ldm_folder):
    names = {path.name for path in ldm_folder.iterdir()}
    assert names == {"config.json", "unet.safetensors", "vqgan.safetensors"}
    assert json.loads((ldm_folder / "config.json").read_text())["kind"] == "ldm"


def remove_folder(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def truncate(folder):
    path = folder / "unet.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def scramble(folder):
    (folder / "unet.safetensors").write_bytes(b"\xff" * 1000)


def remove_weights(folder):
    (folder / "vqgan.safetensors").unlink()


def break_config(folder):
    (folder / "config.json").write_text("{")


def set_in_config(folder, key, value):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: value}))


def change_version(folder):
    set_in_config(folder, "format_version", 99)


def change_size(folder):
    config = json.loads((folder / "config.json").read_text())
    config["spec"] = ModelSpec(2, (32, 32), "small").to_dict()
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "damage",
    [remove_folder, truncate, scramble, remove_weights, break_config, change_version, change_size],
)
def test_damaged_checkpoint_is_refused_by_name(ldm_folder, damage):
    damage(ldm_folder)
    with pytest.raises(CheckpointError, match="ldm"):
        load_ldm(ldm_folder, **AS_SAVED)


def test_checkpoint_of_the_other_kind_is_refused(ldm_folder, tmp_path):
    with pytest.raises(CheckpointError):
        load_vqgan(ldm_folder, **AS_SAVED)
    save_vqgan(tmp_path / "vqgan", SPECS[2], build_vqgan(SPECS[2]))
    with pytest.raises(CheckpointError):
        load_ldm(tmp_path / "vqgan", **AS_SAVED)


def test_save_that_fails_leaves_the_checkpoint_that_was_there(ldm_folder):
    before = {path.name: path.read_bytes() for path in ldm_folder.iterdir()}
    spec = SPECS[2]

    class Unsaveable(torch.nn.Module):
        def state_dict(self, *_, **__):
            raise OSError("disk full")

    with pytest.raises((CheckpointError, OSError)):
        save_ldm(ldm_folder, spec, Unsaveable(), build_vqgan(spec), 0.7)
    assert {path.name: path.read_bytes() for path in ldm_folder.iterdir()} == before
    assert [path.name for path in ldm_folder.parent.iterdir()] == ["ldm"]


def test_second_save_replaces_the_first(ldm_folder):
    spec = SPECS[2]
    save_ldm(ldm_folder, spec, build_unet(spec), build_vqgan(spec), 0.9)
    assert load_ldm(ldm_folder, **AS_SAVED).latent_scale == 0.9
    assert [path.name for path in ldm_folder.parent.iterdir()] == ["ldm"]
