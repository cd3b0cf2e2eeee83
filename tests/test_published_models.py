"""Published models: tiny random weights in the layouts of MAISI, MedLoRD and diffusers, sampled."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from monai.networks.schedulers.ddpm import DDPMScheduler
from monai.networks.schedulers.rectified_flow import RFlowScheduler

from ldm_project.config import SynthConfig
from ldm_project.diffusion.autoencoders import decode, encode
from ldm_project.diffusion.noise_schedulers import RectifiedFlowScheduler, time_of
from ldm_project.diffusion.published_models import is_published, load_published
from ldm_project.diffusion.published_parts import monai_schedule
from ldm_project.diffusion.sampling import decode_samples, denoise, initial_noise
from ldm_project.errors import CheckpointError, InvalidInputError
from tests.fakes.commands import run_command

SIZE = (32, 32, 32)
SCALE_FACTOR = 0.8
SCALED_LINEAR = {"schedule": "scaled_linear_beta", "beta_start": 0.0015, "beta_end": 0.0195}


def maisi_config(**scheduler) -> dict:
    """MAISI's configuration as its authors publish it, with narrower networks."""
    place = "monai.apps.generation.maisi.networks"
    return {
        "spatial_dims": 3,
        "image_channels": 1,
        "latent_channels": 4,
        "autoencoder_def": {
            "_target_": f"{place}.autoencoderkl_maisi.AutoencoderKlMaisi",
            "spatial_dims": "@spatial_dims",
            "in_channels": "@image_channels",
            "out_channels": "@image_channels",
            "latent_channels": "@latent_channels",
            "num_channels": [8, 8, 8],
            "num_res_blocks": [1, 1, 1],
            "norm_num_groups": 4,
            "norm_eps": 1e-06,
            "attention_levels": [False, False, False],
            "with_encoder_nonlocal_attn": False,
            "with_decoder_nonlocal_attn": False,
            "use_checkpointing": False,
            "use_convtranspose": False,
            "norm_float16": True,
            "num_splits": 1,
            "dim_split": 1,
        },
        "diffusion_unet_def": {
            "_target_": f"{place}.diffusion_model_unet_maisi.DiffusionModelUNetMaisi",
            "spatial_dims": "@spatial_dims",
            "in_channels": "@latent_channels",
            "out_channels": "@latent_channels",
            "num_channels": [32, 32],
            "attention_levels": [False, True],
            "num_head_channels": [0, 32],
            "num_res_blocks": 1,
            "use_flash_attention": True,
            "include_top_region_index_input": False,
            "include_bottom_region_index_input": False,
            "include_spacing_input": True,
            "num_class_embeds": 128,
            "resblock_updown": True,
            "include_fc": True,
        },
        "mask_generation_autoencoder_def": {"latent_channels": "@latent_channels"},
        "noise_scheduler": {
            "_target_": "monai.networks.schedulers.rectified_flow.RFlowScheduler",
            "num_train_timesteps": 1000,
            "use_discrete_timesteps": False,
            "use_timestep_transform": False,
            "sample_method": "uniform",
            "scale": 1.4,
        }
        | scheduler,
    }


def maisi_networks(config):
    """The networks of a configuration, built by MONAI's own classes, with random weights."""

    def shape(name):
        own = {k: v for k, v in config[name].items() if k != "_target_"}
        own |= {k: False for k in ("norm_float16", "use_flash_attention") if k in own}
        return {k: config[v[1:]] if isinstance(v, str) else v for k, v in own.items()}

    torch.manual_seed(0)
    autoencoder = AutoencoderKlMaisi(**shape("autoencoder_def"))
    unet = DiffusionModelUNetMaisi(**shape("diffusion_unet_def"))
    torch.nn.init.normal_(unet.out[2].conv.weight, std=0.1)  # MONAI starts it at zero
    return autoencoder.eval(), unet.eval()


def write_maisi(folder: Path, **scheduler):
    """Writes a folder as MAISI's authors publish it; returns its networks."""
    config = maisi_config(**scheduler)
    autoencoder, unet = maisi_networks(config)
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "config_network_rflow.json").write_text(json.dumps(config))
    torch.save(autoencoder.state_dict(), folder / "models" / "autoencoder_v1.pt")
    torch.save({}, folder / "models" / "mask_generation_autoencoder.pt")
    content = {"unet_state_dict": unet.state_dict(), "scale_factor": torch.tensor(SCALE_FACTOR)}
    torch.save(content, folder / "models" / "diff_unet_3d_rflow-ct.pt")
    return autoencoder, unet


def write_medlord(folder: Path):
    """Writes a folder of MedLoRD's layout; returns its networks."""
    from generative.networks import nets

    levels = 2
    shape = {
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 1,
        "num_channels": [8, 8],
        "num_res_channels": [8, 8],
        "num_res_layers": 1,
        "downsample_parameters": [[2, 4, 1, 1]] * levels,
        "upsample_parameters": [[2, 4, 1, 1, 0]] * levels,
        "num_embeddings": 16,
        "embedding_dim": 8,
    }
    unet_shape = {
        "spatial_dims": 3,
        "in_channels": 8,
        "out_channels": 8,
        "num_res_blocks": 1,
        "num_channels": [32, 32],
        "attention_levels": [False, True],
        "with_conditioning": False,
        "num_head_channels": [0, 32],
    }
    torch.manual_seed(0)
    autoencoder, unet = nets.VQVAE(**shape).eval(), nets.DiffusionModelUNet(**unet_shape).eval()
    torch.nn.init.normal_(unet.out[2].conv.weight, std=0.1)
    folder.mkdir()
    scheduler = {
        "schedule": "cosine",
        "num_train_timesteps": 300,
        "prediction_type": "v_prediction",
    }
    text = yaml.safe_dump({"stage1": {"params": shape | {"act": "RELU"}}})
    (folder / "vqgan_ds4.yaml").write_text(text + "    epsilon: 1e-5\n")
    parameters = unet_shape | {"use_flash_attention": True}
    (folder / "medlord.yaml").write_text(
        yaml.safe_dump({"ldm": {"params": parameters, "scheduler": scheduler}})
    )
    torch.save({"state_dict": autoencoder.state_dict(), "epoch": 3}, folder / "vqgan_1.pth")
    trained = {f"module.{name}": value for name, value in unet.state_dict().items()}
    torch.save({"diffusion": trained, "best_loss": 0.1}, folder / "checkpoint.pth")
    return autoencoder, unet


def write_diffusers(folder: Path, kind: str):
    """Writes a pipeline as diffusers saves it; returns its parts."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel, VQModel

    torch.manual_seed(0)
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (8, 8, 8),
        "latent_channels": 4,
        "norm_num_groups": 4,
        "in_channels": 1,
        "out_channels": 1,
    }
    if kind == "vqvae":
        autoencoder = VQModel(num_vq_embeddings=16, vq_embed_dim=4, **blocks)
    else:
        autoencoder = AutoencoderKL(**blocks)
    unet = UNet2DModel(
        in_channels=4,
        out_channels=4,
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", prediction_type="epsilon")
    parts = {kind: autoencoder, "unet": unet, "scheduler": scheduler}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    index = {name: ["diffusers", type(part).__name__] for name, part in parts.items()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "LDMPipeline"} | index))
    return autoencoder.eval(), unet.eval()


def latents_of(ldm, *, sampler, steps):
    noise = initial_noise(ldm.spec, range(1), seed=0)
    *_, final = denoise(ldm.unet, noise, sampler=sampler, steps=steps, schedule=ldm.schedule)
    return noise, final.latents


@pytest.mark.slow
@torch.inference_mode()
def test_rectified_flow_of_maisi_samples_what_monais_own_loop_does(tmp_path):
    autoencoder, unet = write_maisi(tmp_path / "maisi")
    ldm = load_published(tmp_path / "maisi", size=SIZE, spacing_mm=(1.5, 1.5, 2.0), device="cpu")
    noise, latents = latents_of(ldm, sampler="rflow", steps=4)
    scheduler = RFlowScheduler(num_train_timesteps=1000, use_discrete_timesteps=False)
    scheduler.set_timesteps(4)
    image = noise
    for timestep in scheduler.timesteps.float():
        predicted = unet(
            image,
            timesteps=timestep[None],
            spacing_tensor=torch.tensor([[150.0, 150.0, 200.0]]),
            class_labels=torch.tensor([1]),
        )
        image, _ = scheduler.step(predicted, timestep, image)
    torch.testing.assert_close(latents, image, rtol=1e-4, atol=1e-4)
    # MAISI's images are from 0 to 1, ours from -1 to 1, both of -1000 to 1000 HU
    expected = autoencoder.decode(image / SCALE_FACTOR) * 2 - 1
    found = decode_samples(ldm.vqgan, latents, ldm.latent_scale)
    torch.testing.assert_close(found, expected.clamp(-1, 1), rtol=1e-4, atol=1e-4)
    assert found.shape == (1, 1, *SIZE)


@pytest.mark.slow
@torch.inference_mode()
def test_times_of_a_large_latent_are_moved_as_monai_moves_them(tmp_path):
    write_maisi(tmp_path / "maisi", use_timestep_transform=True)
    ldm = load_published(tmp_path / "maisi", size=(64, 32, 64), device="cpu")
    theirs = RFlowScheduler(1000, use_discrete_timesteps=False, use_timestep_transform=True)
    theirs.set_timesteps(10, input_img_size_numel=16 * 8 * 16)
    ours = RectifiedFlowScheduler(ldm.schedule.shift)
    ours.set_timesteps(10, torch.device("cpu"))
    assert ldm.schedule.shift == pytest.approx((16 * 8 * 16 / 32**3) ** (1 / 3))
    found = time_of(ours.timesteps) * 1000
    torch.testing.assert_close(found, theirs.timesteps.float(), rtol=1e-3, atol=0.5)  # theirs: fp16
    # however the path is divided, a constant velocity leads along all of it
    latents = torch.ones(1)
    for timestep in ours.timesteps:
        latents = ours.step(torch.ones(1), timestep, latents).prev_sample
    assert latents.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
@torch.inference_mode()
def test_autoencoder_of_maisi_reconstructs_as_monai_does(tmp_path):
    autoencoder, _ = write_maisi(tmp_path / "maisi")
    ldm = load_published(tmp_path / "maisi", size=SIZE, device="cpu")
    images = torch.rand(1, 1, *SIZE) * 2 - 1
    means, _ = autoencoder.encode((images + 1) / 2)
    torch.testing.assert_close(encode(ldm.vqgan, images), means)
    expected = (autoencoder.decode(means) * 2 - 1).clamp(-1, 1)
    torch.testing.assert_close(decode(ldm.vqgan, means), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@torch.inference_mode()
def test_diffusion_of_maisi_has_monais_schedule(tmp_path):
    target = "monai.networks.schedulers.ddpm.DDPMScheduler"
    folder = tmp_path / "maisi"
    write_maisi(folder)
    path = folder / "configs" / "config_network_rflow.json"
    scheduler = {"_target_": target, "num_train_timesteps": 1000, "clip_sample": False}
    config = json.loads(path.read_text()) | {"noise_scheduler": scheduler | SCALED_LINEAR}
    path.write_text(json.dumps(config))
    ldm = load_published(folder, size=SIZE, device="cpu")
    assert ldm.objective == "diffusion"
    theirs = DDPMScheduler(1000, **SCALED_LINEAR).betas
    assert torch.allclose(torch.tensor(ldm.schedule.arguments["trained_betas"]).float(), theirs)
    _, latents = latents_of(ldm, sampler="unipc", steps=3)
    assert torch.isfinite(latents).all()


@pytest.mark.slow
@torch.inference_mode()
def test_medlord_is_read_with_its_schedule_its_codes_and_its_range(tmp_path):
    autoencoder, unet = write_medlord(tmp_path / "medlord")
    ldm = load_published(tmp_path / "medlord", size=SIZE, device="cpu")
    noise, latents = latents_of(ldm, sampler="dpmpp", steps=3)
    predicted = ldm.unet(noise, torch.tensor([299]))
    torch.testing.assert_close(predicted, unet(noise, torch.tensor([299])))
    # 1000 HU, our 1, is a third below the top of -1000 to 2000 HU: 1/3 in -1 to 1
    bright = torch.ones(1, 1, *SIZE)
    expected = autoencoder.encode(bright / 3)
    torch.testing.assert_close(encode(ldm.vqgan, bright), expected)
    assert decode_samples(ldm.vqgan, latents, ldm.latent_scale).shape == (1, 1, *SIZE)
    with pytest.raises(InvalidInputError, match="steps is 500; give 1 to 300"):
        latents_of(ldm, sampler="ddpm", steps=500)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vae", "vqvae"])
@torch.inference_mode()
def test_pipeline_of_diffusers_is_read_part_by_part(tmp_path, kind):
    autoencoder, unet = write_diffusers(tmp_path / "pipeline", kind)
    ldm = load_published(tmp_path / "pipeline", size=(32, 32), device="cpu")
    assert ldm.spec.latent_shape == (4, 8, 8)
    noise, latents = latents_of(ldm, sampler="ddim", steps=2)
    timestep = torch.tensor([999])
    torch.testing.assert_close(ldm.unet(noise, timestep), unet(noise, timestep).sample)
    scaled = latents / autoencoder.config.scaling_factor
    expected = autoencoder.decode(scaled).sample.clamp(-1, 1)
    found = decode_samples(ldm.vqgan, latents, ldm.latent_scale)
    torch.testing.assert_close(found, expected)


def test_schedule_with_a_cosine_is_that_of_monai():
    schedule = monai_schedule({"schedule": "cosine", "num_train_timesteps": 300})
    theirs = DDPMScheduler(300, schedule="cosine").betas
    assert torch.allclose(torch.tensor(schedule.arguments["trained_betas"]).float(), theirs.float())
    assert schedule.arguments["prediction_type"] == "epsilon"


def break_target(folder):
    path = folder / "configs" / "config_network_rflow.json"
    config = json.loads(path.read_text())
    config["diffusion_unet_def"]["_target_"] = "os.system"
    path.write_text(json.dumps(config))


def break_weights(folder):
    path = folder / "models" / "diff_unet_3d_rflow-ct.pt"
    content = torch.load(path, weights_only=True)
    content["unet_state_dict"].pop("conv_in.conv.weight")
    torch.save(content, path)


def break_pickle(folder):
    torch.save({"unet_state_dict": Path()}, folder / "models" / "diff_unet_3d_rflow-ct.pt")


def break_file(folder):
    (folder / "models" / "autoencoder_v1.pt").unlink()


def break_config(folder):
    (folder / "configs" / "config_network_rflow.json").unlink()


def break_reference(folder):
    path = folder / "configs" / "config_network_rflow.json"
    config = json.loads(path.read_text())
    del config["latent_channels"]
    path.write_text(json.dumps(config))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_target, "network system is none of AutoencoderKlMaisi"),
        (break_weights, "1 weights are missing or unknown, conv_in.conv.weight first"),
        (break_pickle, "Weights only load failed"),
        (break_file, r"one file autoencoder\*\.pt is needed, there is none"),
        (break_config, "no config.json, model_index.json, JSON with diffusion_unet_def"),
        (break_reference, "KeyError: 'latent_channels'"),
    ],
)
def test_folder_of_another_layout_gets_one_clear_error(tmp_path, damage, message):
    write_maisi(tmp_path / "maisi")
    damage(tmp_path / "maisi")
    with pytest.raises(CheckpointError, match=f"maisi is no model that can be read: .*{message}"):
        load_published(tmp_path / "maisi", size=SIZE, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((32, 32), "makes images of 3 axes, not 32x32. Pass dims=3"),
        ((32, 32, 36), "whose axes are divisible by 8, not 32x32x36"),
    ],
)
def test_size_that_the_networks_cannot_make_is_refused(tmp_path, size, message):
    write_maisi(tmp_path / "maisi")
    with pytest.raises(CheckpointError, match=message):
        load_published(tmp_path / "maisi", size=size, device="cpu")


@pytest.mark.slow
def test_pipeline_with_other_parts_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"unet": ["diffusers", "UNet1DModel"]}))
    with pytest.raises(CheckpointError, match="names other parts than UNet2DModel with a VAE"):
        load_published(tmp_path, size=(32, 32), device="cpu")


def test_own_checkpoints_are_told_from_published_ones(tmp_path):
    own = Path(__file__).parent / "fixtures" / "ldm_checkpoint_v1"
    assert not is_published(own)
    assert not is_published(tmp_path)
    write_medlord(tmp_path / "medlord")
    assert is_published(tmp_path / "medlord")


@pytest.mark.slow
def test_published_model_is_sampled_and_measured_as_any_other(store, tmp_path):
    write_maisi(tmp_path / "maisi")
    settings = {"dims": 3, "size": "32", "steps": 2, "num_samples": "2", "batch_size": "1"}
    run_command(SynthConfig(model=str(tmp_path / "maisi"), sampler="rflow", **settings))
    (run,) = MlflowClient().search_runs(["0"])
    assert run.data.tags["ldm.model"].endswith("maisi")
    assert run.data.metrics["carbon/energy_kwh"] > 0
    names = {item.path for item in MlflowClient().list_artifacts(run.info.run_id, "samples")}
    assert names == {"samples/00000.nii.gz", "samples/00001.nii.gz"}
    with pytest.raises(InvalidInputError, match="sampler is 'unipc' but the model is trained"):
        run_command(SynthConfig(model=str(tmp_path / "maisi"), **settings))
