"""A training loop as a run shows it: what is logged of an iteration."""

from ldm_project.diffusion.diffusion_training import DiffusionStep
from ldm_project.diffusion.vqgan_training import VqganStep
from ldm_project.runs.training_progress import losses_of


def test_loss_that_has_not_joined_is_absent_and_one_of_zero_is_logged():
    step = VqganStep(
        3,
        reconstruction_loss=0.5,
        spectral_loss=0.0,
        histogram_loss=None,
        quantisation_loss=0.25,
        adversarial_loss=None,
        discriminator_loss=None,
    )
    assert losses_of(step) == {
        "reconstruction_loss": 0.5,
        "spectral_loss": 0.0,
        "quantisation_loss": 0.25,
    }
    assert losses_of(DiffusionStep(3, 0.75)) == {"loss": 0.75}
