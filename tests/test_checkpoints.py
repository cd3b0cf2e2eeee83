"""Checkpoints: what is saved comes back in either backend, and nothing half or foreign does."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ldm_project.config import BACKENDS
from ldm_project.diffusion.autoencoders import decode, encode
from ldm_project.diffusion.checkpoints import (
    LdmCheckpoint,
    digests_of,
    load_ldm,
    load_vqgan,
    save_ldm,
    save_vqgan,
)
from ldm_project.diffusion.models import ModelSpec, build_unet, build_vqgan
from ldm_project.errors import CheckpointError
from ldm_project.presets import STRIDED

SPECS = {2: ModelSpec(2, (64, 64), "tiny"), 3: ModelSpec(3, (16, 16, 16), "tiny")}
LATENT_SCALE = 0.9
VERSION_1 = Path(__file__).parent / "fixtures" / "ldm_checkpoint_v1"


@pytest.fixture(scope="module", params=(2, 3), ids=("2d", "3d"))
def networks(request):
    spec = SPECS[request.param]
    unet = build_unet(spec)
    torch.nn.init.normal_(unet.out[2].conv.weight, std=0.1)  # MONAI starts it at zero
    return spec, unet.eval(), build_vqgan(spec).eval()


@pytest.fixture
def ldm_folder(networks, tmp_path):
    spec, unet, vqgan = networks
    save_ldm(tmp_path / "ldm", LdmCheckpoint(spec, unet, vqgan, LATENT_SCALE))
    return tmp_path / "ldm"


@pytest.fixture
def vqgan_folder(networks, tmp_path):
    spec, _, vqgan = networks
    save_vqgan(tmp_path / "vqgan", spec, vqgan)
    return tmp_path / "vqgan"


def edit_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def load(folder):
    return load_ldm(folder, backend="core", device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_ldm_comes_back_the_same_in_either_backend(networks, ldm_folder, backend):
    spec, unet, vqgan = networks
    loaded = load_ldm(ldm_folder, backend=backend, device="cpu")
    assert loaded.spec == spec
    assert loaded.latent_scale == LATENT_SCALE
    assert type(loaded.unet).__module__.startswith({"core": "monai"}.get(backend, backend))
    latents, timesteps = torch.randn(1, *spec.latent_shape), torch.tensor([500])
    with torch.inference_mode():
        torch.testing.assert_close(
            loaded.unet(latents, timesteps), unet(latents, timesteps), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(decode(loaded.vqgan, latents), decode(vqgan, latents))


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_files_do_not_say_which_backend_wrote_them(networks, tmp_path, backend):
    spec, unet, vqgan = networks
    save_ldm(tmp_path / "first", LdmCheckpoint(spec, unet, vqgan, LATENT_SCALE))
    loaded = load_ldm(tmp_path / "first", backend=backend, device="cpu")
    save_ldm(tmp_path / "second", loaded)
    for name in ("config.json", "unet.safetensors", "vqgan.safetensors"):
        assert (tmp_path / "second" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()


def test_vqgan_comes_back_the_same(networks, vqgan_folder):
    spec, _, vqgan = networks
    loaded = load_vqgan(vqgan_folder, backend="core", device=None)
    images = torch.rand(1, 1, *spec.size)
    assert loaded.spec == spec
    torch.testing.assert_close(encode(loaded.vqgan, images).cpu(), encode(vqgan, images))


@pytest.mark.slow
def test_loaded_networks_are_frozen(ldm_folder):
    ldm = load(ldm_folder)
    for network in (ldm.unet, ldm.vqgan):
        assert not network.training
        assert not any(weight.requires_grad for weight in network.parameters())


def test_checkpoint_holds_no_pickle(ldm_folder):
    assert sorted(path.name for path in ldm_folder.iterdir()) == [
        "config.json",
        "unet.safetensors",
        "vqgan.safetensors",
    ]


def test_checkpoint_of_other_widths_than_the_present_preset_still_loads(tmp_path):
    widths = replace(SPECS[2].widths, vqgan_channels=(8, 8, 8), unet_channels=(32, 32))
    spec = replace(SPECS[2], preset=widths)
    save_ldm(
        tmp_path / "old", LdmCheckpoint(spec, build_unet(spec), build_vqgan(spec), LATENT_SCALE)
    )
    assert load(tmp_path / "old").spec == spec


@pytest.mark.parametrize("backend", BACKENDS)
def test_checkpoint_of_version_1_computes_what_it_did_when_it_was_written(backend):
    """The figures were printed by the release that wrote the folder, from untrained weights."""
    ldm = load_ldm(VERSION_1, backend=backend, device="cpu")
    assert ldm.spec.widths.autoencoder == STRIDED
    latents = torch.linspace(-1, 1, 64).reshape(1, 4, 4, 4)
    image = torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16)
    with torch.inference_mode():
        predicted = ldm.unet(latents, torch.tensor([500])).flatten()[:3]
        decoded = decode(ldm.vqgan, latents).flatten()[:3]
        encoded = encode(ldm.vqgan, image).flatten()[:3]
    expected = {
        "predicted": (predicted, [-0.0542583, 0.0365653, -0.0142909]),
        "decoded": (decoded, [0.0325044, 0.0590303, 0.0666526]),
        "encoded": (encoded, [-0.0011335, -0.1019784, -0.1084369]),
    }
    for name, (found, before) in expected.items():
        assert found.tolist() == pytest.approx(before, abs=1e-5), name


def test_checkpoint_of_version_1_is_written_anew_as_one_that_still_loads(tmp_path):
    ldm = load_ldm(VERSION_1, backend="core", device="cpu")
    save_ldm(tmp_path / "anew", ldm)
    assert load(tmp_path / "anew").spec == ldm.spec


@pytest.mark.slow
def test_saving_again_replaces_the_checkpoint_and_leaves_nothing_beside(networks, ldm_folder):
    spec, unet, vqgan = networks
    save_ldm(ldm_folder, LdmCheckpoint(spec, unet, vqgan, 0.5))
    assert load(ldm_folder).latent_scale == 0.5
    assert list(ldm_folder.parent.iterdir()) == [ldm_folder]


class FullDisk(torch.nn.Module):
    """A network whose weights cannot be written any more."""

    def state_dict(self):
        raise OSError(28, "No space left on device")


@pytest.mark.slow
def test_checkpoint_survives_a_failed_save(networks, ldm_folder):
    spec, unet, _ = networks
    with pytest.raises(CheckpointError, match=r"No space left on device.*is unchanged"):
        save_ldm(ldm_folder, LdmCheckpoint(spec, unet, FullDisk(), 0.5))
    assert load(ldm_folder).latent_scale == LATENT_SCALE
    assert list(ldm_folder.parent.iterdir()) == [ldm_folder]


def test_failed_first_save_leaves_no_half_checkpoint(networks, tmp_path):
    spec, unet, _ = networks
    with pytest.raises(CheckpointError):
        save_ldm(tmp_path / "ldm", LdmCheckpoint(spec, unet, FullDisk(), 0.5))
    assert list(tmp_path.iterdir()) == []


def test_folder_of_something_else_is_not_overwritten(networks, tmp_path):
    spec, _, vqgan = networks
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(CheckpointError, match="exists and holds no checkpoint, so it stays"):
        save_vqgan(tmp_path, spec, vqgan)
    assert (tmp_path / "thesis.tex").read_text() == "dear"


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"No checkpoint folder .*nowhere\. Train one"):
        load(tmp_path / "nowhere")


def test_folder_without_config_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        load(tmp_path)


def test_missing_weights_are_named(ldm_folder):
    (ldm_folder / "unet.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks unet\.safetensors"):
        load(ldm_folder)


@pytest.mark.slow
@pytest.mark.parametrize("num_bytes", [0, 4, 1000, -1])
def test_truncated_weights_are_refused(ldm_folder, num_bytes):
    path = ldm_folder / "vqgan.safetensors"
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(CheckpointError, match=r"vqgan\.safetensors is damaged"):
        load(ldm_folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "ldm"}', '{"format_version": 1}', "3"])
def test_damaged_config_is_refused(ldm_folder, text):
    (ldm_folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        load(ldm_folder)


def test_other_format_version_is_refused(ldm_folder):
    edit_config(ldm_folder, format_version=3)
    with pytest.raises(CheckpointError, match="has format version 3; this release reads up to 2"):
        load(ldm_folder)


@pytest.mark.parametrize("scale", [None, 0.0, -1.0, float("nan"), "1"])
def test_senseless_latent_scale_is_refused(ldm_folder, scale):
    edit_config(ldm_folder, latent_scale=scale)
    with pytest.raises(CheckpointError, match="latent_scale is"):
        load(ldm_folder)


def test_config_of_another_size_than_the_weights_is_refused(ldm_folder):
    config = json.loads((ldm_folder / "config.json").read_text())
    config["spec"]["size"] = [axis * 2 for axis in config["spec"]["size"]]
    edit_config(ldm_folder, **config)
    with pytest.raises(CheckpointError, match=r"saved with another config\.json"):
        load(ldm_folder)


@pytest.mark.parametrize(
    "spec", [{}, None, {"dims": 2}, {"dims": 4, "size": [8] * 4, "model_size": "tiny"}]
)
def test_config_with_a_senseless_spec_is_refused(ldm_folder, spec):
    edit_config(ldm_folder, spec=spec)
    with pytest.raises(CheckpointError, match=r"config\.json is damaged \(spec"):
        load(ldm_folder)


def test_weights_of_another_checkpoint_are_refused(networks, ldm_folder, tmp_path):
    spec, unet, vqgan = networks
    save_ldm(tmp_path / "other", LdmCheckpoint(spec, unet, vqgan, 0.5))
    (tmp_path / "other" / "unet.safetensors").replace(ldm_folder / "unet.safetensors")
    with pytest.raises(CheckpointError, match=r"saved with another config\.json"):
        load(ldm_folder)


def write_weights(path, change):
    """Rewrites a weights file with its own config, its weights changed by a function."""
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    save_file(change(state), path, metadata=metadata)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "vqgan"])
def test_one_flipped_bit_is_refused(ldm_folder, name):
    path = ldm_folder / f"{name}.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1  # within the last weight: the lowest bit of some byte
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}\.safetensors is damaged.* have the digest"):
        load(ldm_folder)


@pytest.mark.slow
def test_weights_of_another_model_of_the_same_shape_are_refused(networks, ldm_folder):
    spec, _, _ = networks
    other = build_unet(spec)
    write_weights(ldm_folder / "unet.safetensors", lambda _state: other.state_dict())
    with pytest.raises(
        CheckpointError, match=r"unet\.safetensors is damaged.* not .* as when saved"
    ):
        load(ldm_folder)


@pytest.mark.slow
def test_checkpoint_from_before_digests_loads(networks, ldm_folder):
    config = json.loads((ldm_folder / "config.json").read_text())
    del config["weights_digests"]
    (ldm_folder / "config.json").write_text(json.dumps(config))
    for name in ("unet", "vqgan"):
        path = ldm_folder / f"{name}.safetensors"
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        save_file(state, path, metadata={"config": json.dumps(config)})
    assert load(ldm_folder).spec == networks[0]


@pytest.mark.slow
def test_checkpoint_with_another_digest_than_registered_is_refused(ldm_folder):
    digests = digests_of(ldm_folder)
    assert load_ldm(ldm_folder, backend="core", device="cpu", digests=digests)
    with pytest.raises(
        CheckpointError, match=r"the model was registered with unet 00000000, vqgan"
    ):
        load_ldm(ldm_folder, backend="core", device="cpu", digests=digests | {"unet": "0" * 32})


@pytest.mark.parametrize("digests", [[], "abc", None, 3])
def test_senseless_digests_are_refused(ldm_folder, digests):
    edit_config(ldm_folder, weights_digests=digests)
    with pytest.raises(CheckpointError, match="weights_digests is"):
        load(ldm_folder)


def test_weights_that_do_not_fit_their_config_are_refused(tmp_path):
    other = replace(SPECS[2], preset=replace(SPECS[2].widths, vqgan_channels=(8, 32, 64)))
    save_vqgan(tmp_path / "vqgan", SPECS[2], build_vqgan(other))
    with pytest.raises(CheckpointError, match=r"do not fit config\.json: weight .* has shape"):
        load_vqgan(tmp_path / "vqgan", backend="core", device="cpu")


def test_vqgan_is_no_ldm(vqgan_folder):
    with pytest.raises(CheckpointError, match="holds a vqgan checkpoint; give a ldm one"):
        load(vqgan_folder)


def test_ldm_is_no_vqgan(ldm_folder):
    with pytest.raises(CheckpointError, match="holds a ldm checkpoint; give a vqgan one"):
        load_vqgan(ldm_folder, backend="core", device="cpu")
