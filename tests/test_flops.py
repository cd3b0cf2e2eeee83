"""TFLOP of an image: hand counts of convolutions and attention, laws, and the page of sizes."""

import pytest

from benchmarks.model_sizes import PAGE, SIZES, page
from ldm_project.diffusion.flops import (
    cost_of,
    diffusion_iteration_tflop,
    vqgan_iteration_tflop,
    weights_of,
)
from ldm_project.diffusion.models import ModelSpec, build_unet, num_parameters


def test_decoding_is_what_a_hand_count_of_its_convolutions_gives():
    # tiny, 64²: latent 16², 8 channels; 2 FLOP per multiply-add of a 3×3 convolution
    def convolved(edge, before, after, kernel=9):
        return 2 * edge**2 * kernel * before * after

    counted = cost_of(ModelSpec(2, (64, 64), "tiny")).decode_tflop
    assert counted * 1e12 == pytest.approx(
        convolved(16, 8, 64)  # first
        + 2 * convolved(16, 64, 64)  # the residual block of the coarsest level
        + convolved(32, 64, 64)  # after repeating voxels
        # narrower: its two convolutions, and the way around them
        + convolved(32, 64, 32)
        + convolved(32, 32, 32)
        + convolved(32, 64, 32, kernel=1)
        + convolved(64, 32, 32)
        + convolved(64, 32, 16)
        + convolved(64, 16, 16)
        + convolved(64, 32, 16, kernel=1)
        + convolved(64, 16, 1)  # last
    )


@pytest.mark.slow
def test_what_grows_with_the_square_of_the_size_is_attention_and_nothing_else():
    # cost(N) = c + a·N + b·N² over N latent positions, c for the timestep's embedding, so
    # cost(4N) - 3·cost(2N) + 2·cost(N) = 6·b·N². tiny attends in four blocks (one down, one in
    # the middle, two up) over n = N/4 positions of 64 channels, and each multiplies twice,
    # queries by keys and weights by values: b·N² = 4 · 2 · 2·n²·64, with N = 256.
    one = cost_of(ModelSpec(2, (64, 64), "tiny")).step_tflop * 1e12
    two = cost_of(ModelSpec(2, (128, 64), "tiny")).step_tflop * 1e12
    four = cost_of(ModelSpec(2, (128, 128), "tiny")).step_tflop * 1e12
    attention = 4 * 2 * 2 * 64**2 * 64
    assert four - 3 * two + 2 * one == pytest.approx(6 * attention)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dims", "size", "model_size", "step_tflop"),
    [  # by arithmetic of the widths, before this code existed
        (2, (192, 192), "small", 0.007),
        (2, (512, 512), "medium", 0.283),
        (3, (64, 64, 64), "large", 0.419),
        (3, (256, 256, 192), "medium", 5.58),
    ],
)
def test_step_costs_what_the_design_says(dims, size, model_size, step_tflop):
    counted = cost_of(ModelSpec(dims, size, model_size)).step_tflop
    assert counted == pytest.approx(step_tflop, rel=0.03)


def test_an_image_costs_its_decoding_and_each_of_its_steps():
    cost = cost_of(ModelSpec(3, (32, 32, 32), "tiny"))
    assert cost.sample_tflop(20) - cost.sample_tflop(10) == pytest.approx(10 * cost.step_tflop)
    assert cost.sample_tflop(1) == pytest.approx(cost.decode_tflop + cost.step_tflop)


@pytest.mark.slow
@pytest.mark.parametrize(("dims", "size"), [(2, (64, 64)), (3, (32, 32, 32))])
def test_training_takes_three_times_the_forward_pass(dims, size):
    # backward: once for the weights and once for what came in, except for the first convolution
    # and the timestep, whose input needs no gradient
    spec = ModelSpec(dims, size, "tiny")
    forward = cost_of(spec).step_tflop
    assert 2.9 * forward < diffusion_iteration_tflop(spec, 1) < 3.0 * forward
    assert diffusion_iteration_tflop(spec, 8) == pytest.approx(
        8 * diffusion_iteration_tflop(spec, 1)
    )


def test_autoencoder_costs_more_to_train_than_three_decodings():
    spec = ModelSpec(2, (64, 64), "tiny")
    assert vqgan_iteration_tflop(spec, 1) > 3 * cost_of(spec).decode_tflop


def test_weights_are_those_of_the_real_network():
    spec = ModelSpec(2, (64, 64), "tiny")
    assert weights_of(spec).unet == num_parameters(build_unet(spec))


@pytest.mark.slow
def test_page_of_sizes_is_what_its_program_writes():
    assert PAGE.read_text(encoding="utf-8") == page()


def test_page_of_sizes_has_every_size_in_both_tables():
    text, _memory = PAGE.read_text(encoding="utf-8").split("## Memory")
    for size in SIZES[2] + SIZES[3]:
        assert text.count(f"| {'x'.join(map(str, size))} |") == 2
