"""Writes docs/model_sizes.md: weights of every preset and its TFLOP at every size.

Run it as ``python -m benchmarks.model_sizes``; it takes seconds, since it counts on shapes.
"""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.memory_table import section
from ldm_project.diffusion.flops import Cost, cost_of, weights_of
from ldm_project.diffusion.models import ModelSpec
from ldm_project.parsing import size_text
from ldm_project.presets import PRESETS

PAGE = Path(__file__).parent.parent / "docs" / "model_sizes.md"
SIZES = {
    2: ((192, 192), (256, 256), (320, 320), (512, 512)),
    3: ((64, 64, 64), (128, 128, 128), (192, 192, 192), (256, 256, 192)),
}

HEAD = """\
# Sizes of the networks

Written by `python -m benchmarks.model_sizes`; a test compares this page with what it writes.

The presets are **reconstructed**: the paper prints no hyper-parameters, so these are widths that
published latent diffusion models of CT use. `tiny` is ours, for laptops and tests. Any other size
works whose axes the networks can halve: multiples of 16, for `tiny` of 8.

## Weights

{weights}

Channels of the levels × residual blocks per level; attention on the levels that are bold. The
VQ-GANs are MONAI's `AutoencoderKL` encoder and decoder, without attention, around its vector
quantiser: each of 4 groups of a latent's channels chooses one of the codes. Group normalisation
looks at a whole image, so an image is decoded whole.

## TFLOP per denoising step

{steps}

## TFLOP to decode one image

{decodes}

A multiplication and an addition count as two. The widths of the VQ-GANs of `small`, `medium` and
`large` are the same, so an image's decoding costs the same there. What an image takes is
`decode + steps × step`: at few steps the fixed part is what is left.

{memory}"""


def weights_table() -> str:
    """Returns the presets and how many weights each has, in millions."""
    rows = ["| preset | UNet | VQ-GAN | latent | UNet 2D | UNet 3D | VQ-GAN 2D | VQ-GAN 3D |"]
    rows.append("|---|---|---|---|---:|---:|---:|---:|")
    for name, preset in PRESETS.items():
        levels = zip(preset.unet_channels, preset.unet_attention_levels, strict=True)
        widths = "/".join(f"**{width}**" if attends else f"{width}" for width, attends in levels)
        flat, solid = (weights_of(ModelSpec(dims, SIZES[dims][0], name)) for dims in (2, 3))
        numbers = (flat.unet, solid.unet, flat.vqgan, solid.vqgan)
        millions = " | ".join(f"{number / 1e6:.2f} M" for number in numbers)
        rows.append(
            f"| `{name}` | {widths} × {preset.unet_num_res_blocks} "
            f"| {'/'.join(map(str, preset.vqgan_channels))} × {preset.vqgan_num_res_layers} "
            f"| {preset.latent_channels} channels, {preset.num_code_groups} × {preset.num_codes} "
            f"codes | {millions} |"
        )
    return "\n".join(rows)


def costs() -> dict[tuple[tuple[int, ...], str], Cost]:
    """Returns the cost of every preset at every size."""
    return {
        (size, name): cost_of(ModelSpec(dims, size, name))
        for dims, sizes in SIZES.items()
        for size in sizes
        for name in PRESETS
    }


def cost_rows(values: dict[tuple[tuple[int, ...], str], float]) -> Iterator[str]:
    """Yields the lines of a table of TFLOP: a row for each size, a column for each preset."""
    yield "| image | " + " | ".join(f"`{name}`" for name in PRESETS) + " |"
    yield "|---|" + "---:|" * len(PRESETS)
    for size in (*SIZES[2], *SIZES[3]):
        yield (
            f"| {size_text(size)} | "
            + " | ".join(f"{values[size, name]:.3g}" for name in PRESETS)
            + " |"
        )


def page() -> str:
    """Returns the page."""
    by_place = costs()
    return HEAD.format(
        weights=weights_table(),
        memory=section(),
        steps="\n".join(cost_rows({at: cost.step_tflop for at, cost in by_place.items()})),
        decodes="\n".join(cost_rows({at: cost.decode_tflop for at, cost in by_place.items()})),
    )


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"Wrote {PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE}")


if __name__ == "__main__":
    main()
