"""The verdict rejects samplers that are known to be bad, and passes those known to be good.

The model is one whose noise is known exactly, so what is judged is the sampler alone. The samplers
are the real ones: this project's, MONAI's and diffusers'.
"""

from dataclasses import replace

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from monai.networks.schedulers import DDPMScheduler as MonaiDdpm
from torch import Tensor

from ldm_project.ct.data import DataSpec, open_scans
from ldm_project.diffusion.models import ModelSpec, build_vqgan
from ldm_project.diffusion.noise_schedulers import NOISE_SCHEDULE
from ldm_project.diffusion.quality import features_of_encoder, image_set, judge, pair_ms_ssim
from ldm_project.diffusion.second_judge import train_second_judge
from ldm_project.diffusion.verdict import shortfalls
from tests.fakes.known_model import KnownModel

pytestmark = pytest.mark.slow

NUM_SAMPLES, NUM_TRAINING, NUM_HELD_OUT = 64, 160, 48
# The reference, DDPM, adds noise of its own, so that no other sampler makes the same images. Only
# many show that two samplers are equally good.
NUM_TO_PASS = 1024
PAGE_SIZE, PAGE_PHANTOMS, PAGE_IMAGES = (32, 32, 32), 320, 32  # of docs/ldm_energy.md
HU = 1 / 1000  # of the networks' range


class Jury:
    """Real images of a known model, its samples of 1000 steps, and the two judges."""

    def __init__(self, size: tuple[int, ...]) -> None:
        self.model = KnownModel(size)
        self.training_images = self.model.true_images(NUM_TRAINING, seed=0)
        held_out = self.model.true_images(NUM_HELD_OUT, seed=1)
        second = train_second_judge(self.training_images, held_out, iterations=120)
        torch.manual_seed(0)
        vqgan = build_vqgan(ModelSpec(len(size), size, "tiny")).eval()
        self.features = features_of_encoder(vqgan, second.features)
        self.training = image_set(self.features, self.training_images)
        real = image_set(self.features, held_out)
        self.held_out = real
        alike = pair_ms_ssim(self.training.examples)  # few held-out images may be more alike
        self.anchor = replace(judge(real, self.training, real), pair_ms_ssim=alike)
        self.many_reference_images = self.model.sampled(NUM_TO_PASS, "ddpm", 1000)
        self.reference_images = self.many_reference_images[:NUM_SAMPLES]
        self.references = {
            len(images): image_set(self.features, images)
            for images in (self.reference_images, self.many_reference_images)
        }

    def against(self, images: Tensor) -> str:
        """Returns what the verdict has against images, as one text; empty if nothing."""
        judged = image_set(self.features, images)
        quality = judge(judged, self.training, self.held_out)
        reference = self.references[len(images)]
        found = shortfalls(judged, reference, self.training, quality=quality, real=self.anchor)
        return "; ".join(found)


@pytest.fixture(scope="module", params=[(32, 32), (16, 16, 16)], ids=["2D", "3D"])
def jury(request):
    return Jury(request.param)


@pytest.mark.parametrize(
    ("sampler", "steps"), [("ddpm", 500), ("ddim", 500), ("dpmpp", 100), ("unipc", 100)]
)
def test_enough_steps_are_passed(jury, sampler, steps):
    assert jury.against(jury.model.sampled(NUM_TO_PASS, sampler, steps)) == ""


@pytest.mark.parametrize("sampler", ["ddpm", "unipc"])
def test_few_images_do_not_show_that_enough_steps_are_as_good(jury, sampler):
    found = jury.against(jury.model.sampled(NUM_SAMPLES, sampler, 500))
    assert "farther from real images" in found


def farther_by(judge_name):
    return f"by {judge_name} up to"


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp", "dpmpp_sde", "unipc"])
@pytest.mark.parametrize("steps", [1, 2])
def test_one_and_two_steps_are_rejected(jury, sampler, steps):
    found = jury.against(jury.model.sampled(NUM_SAMPLES, sampler, steps))
    assert farther_by("the second judge") in found


def monai_ddpm_of_100_steps(model):
    scheduler = MonaiDdpm(
        num_train_timesteps=1000,
        schedule="cosine",
        prediction_type="v_prediction",
        clip_sample=False,
    )
    scheduler.set_timesteps(100)
    return model.sampled_by(NUM_SAMPLES, scheduler)


def of_ddim(model, steps, *, num=NUM_SAMPLES, **changes):
    scheduler = DDIMScheduler(clip_sample=False, **{**NOISE_SCHEDULE, **changes})
    scheduler.set_timesteps(steps)
    return model.sampled_by(num, scheduler)


def test_diffusers_own_ddim_is_passed_as_the_model_was_trained(jury):
    """Else the two tests below would show nothing."""
    assert jury.against(of_ddim(jury.model, 500, num=NUM_TO_PASS)) == ""


@pytest.mark.parametrize(
    "sampled",
    [
        pytest.param(monai_ddpm_of_100_steps, id="MONAI's DDPM below its trained steps"),
        pytest.param(
            lambda model: of_ddim(model, 500, beta_schedule="linear"), id="another schedule"
        ),
        pytest.param(
            lambda model: of_ddim(model, 10, timestep_spacing="leading"), id="leading spacing"
        ),
        pytest.param(
            lambda model: model.sampled(NUM_SAMPLES, "ddim", 500, predicts="noise"),
            id="noise read as velocity",
        ),
    ],
)
def test_wrong_samplers_are_rejected(jury, sampled):
    assert "farther from real images" in jury.against(sampled(jury.model))


def noisy(images, amount_hu):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + noise * amount_hu * HU).clamp(-1.0, 1.0)


def repeated(images, num):
    return images[:num].repeat(NUM_SAMPLES // num, *[1] * (images.ndim - 1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda images: repeated(images, 4), "100% repeats", id="four repeated"),
        pytest.param(lambda images: (images + images.roll(1, 0)) / 2, "second judge", id="average"),
        pytest.param(
            lambda images: images.mean(0, keepdim=True).expand_as(images),
            "pairs alike by 1.00",
            id="average of all",
        ),
        pytest.param(lambda images: images.flip(2), "second judge", id="left and right swapped"),
        pytest.param(lambda images: images.flip(3), "second judge", id="upside down"),
        pytest.param(lambda images: (images + 60 * HU).clamp(-1, 1), "second judge", id="+60 HU"),
    ],
)
def test_spoilt_samples_are_rejected(jury, change, said):
    assert said in jury.against(change(jury.reference_images))


def test_copies_of_training_images_are_rejected_though_a_little_changed(jury):
    """As an autoencoder's reconstructions are: most of the image, and an error of 25 HU."""
    copies = noisy(jury.training_images[:NUM_SAMPLES], 25)
    assert "100% copies of training images" in jury.against(copies)


@pytest.mark.parametrize("amount_hu", [30, 60])
def test_noise_is_rejected(jury, amount_hu):
    assert "finest detail" in jury.against(noisy(jury.reference_images, amount_hu))


def test_noise_that_no_scanner_is_free_of_is_passed(jury):
    """Of 3 HU, so that what rejects the noise above does not reject everything."""
    assert jury.against(noisy(jury.reference_images, 3)) == ""


def test_blur_is_rejected_for_its_detail(jury):
    images = jury.reference_images
    blurred = (images + images.roll(1, 2) + images.roll(1, 3)) / 3
    assert "finest detail" in jury.against(blurred)


class PhantomJury:
    """Volumes as the page of costs has them: phantoms, a fifth held out, and 32 images to judge."""

    def __init__(self) -> None:
        data = DataSpec("phantom", PAGE_SIZE, num_phantoms=PAGE_PHANTOMS)
        training, held_out = (
            torch.stack(list(scans.images(0))) for scans in open_scans(data).split(0.2)
        )
        second = train_second_judge(training, held_out, iterations=120)
        torch.manual_seed(0)
        vqgan = build_vqgan(ModelSpec(3, PAGE_SIZE, "tiny")).eval()
        self.features = features_of_encoder(vqgan, second.features)
        self.training, self.held_out = (
            image_set(self.features, images) for images in (training, held_out)
        )
        alike = pair_ms_ssim(self.training.examples)
        real = judge(self.held_out, self.training, self.held_out)
        self.anchor = replace(real, pair_ms_ssim=alike)
        self.images = held_out[:PAGE_IMAGES]  # as a perfect model would make them
        self.reference = image_set(self.features, self.images)

    def against(self, images: Tensor) -> str:
        judged = image_set(self.features, images)
        quality = judge(judged, self.training, self.held_out)
        found = shortfalls(judged, self.reference, self.training, quality=quality, real=self.anchor)
        return "; ".join(found)


@pytest.fixture(scope="module")
def phantom_jury():
    return PhantomJury()


@pytest.mark.parametrize("shift_hu", [60, -60])
def test_shifted_volumes_of_the_pages_are_rejected_by_both_judges(phantom_jury, shift_hu):
    found = phantom_jury.against((phantom_jury.images + shift_hu * HU).clamp(-1, 1))
    assert farther_by("the second judge") in found
    assert farther_by("the VQ-GAN's features") in found


def test_noise_in_the_volumes_of_the_pages_is_rejected(phantom_jury):
    """Of 60 HU; the phantoms have a noise of their own, of 2.6 HU at this size."""
    assert "finest detail" in phantom_jury.against(noisy(phantom_jury.images, 60))


def test_the_volumes_of_the_pages_themselves_are_passed(phantom_jury):
    assert phantom_jury.against(phantom_jury.images) == ""
