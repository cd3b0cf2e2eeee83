"""Compares the CPU time of an image with that of an earlier commit, and with the CPU's peak.

Run it as ``python -m benchmarks.sampling_speed``: five minutes. Both versions of the code run in a
process of their own and take turns, so that what else a machine does meets them alike. Networks are
untrained: what they cost does not depend on their weights. ``--generative`` compares with
monai-generative instead.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

BEFORE = "48f3d36"
ROOT = Path(__file__).parent.parent
SIZES = {2: (64, 64), 3: (32, 32, 32)}
STEPS = 20
# Number of threads, dimensions and batch size of each row; 4 is synth's default for 20 images.
ROWS = (
    (1, 2, 1), (1, 2, 4), (1, 2, 16), (1, 3, 1), (1, 3, 4), (1, 3, 16), (2, 2, 4), (2, 3, 4)
)  # fmt: skip
GENERATIVE_STEPS = 100  # of the comparison with monai-generative, which needs no 1000 for a cost
MATRIX_SIZE = 2048


def cpu_s() -> float:
    """Returns the CPU time that this process has taken, in user mode and in the kernel's."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def worker() -> None:
    """Samples as each line of standard input asks; answers with the CPU time of an image.

    It runs in either version of the code, so it calls only what both have.
    """
    from ldm_project.diffusion.models import ModelSpec, build_unet, build_vqgan
    from ldm_project.diffusion.sampling import decode_samples, denoise, initial_noise

    networks = {}
    for dims, size in SIZES.items():
        spec = ModelSpec(dims, size, "tiny")
        torch.manual_seed(0)
        unet = build_unet(spec).eval().requires_grad_(False)
        torch.nn.init.normal_(unet.out[2].conv.weight, std=0.1)  # MONAI starts it at zero
        vqgan = build_vqgan(spec).eval().requires_grad_(False)
        try:
            from ldm_project.diffusion.acceleration import hasten_on_cpu
        except ImportError:
            pass  # the version before
        else:
            hasten_on_cpu(unet, vqgan, dims=dims)
        networks[dims] = (spec, unet, vqgan)
    for line in sys.stdin:
        threads, dims, batch_size, path = json.loads(line)
        torch.set_num_threads(threads)
        spec, unet, vqgan = networks[dims]
        start_s = cpu_s()
        noise = initial_noise(spec, range(batch_size), seed=0)
        for step in denoise(unet, noise, sampler="unipc", steps=STEPS):
            latents = step.latents
        denoised_s = cpu_s()
        images = decode_samples(vqgan, latents, 1.0)
        taken = [(denoised_s - start_s) / batch_size, (cpu_s() - denoised_s) / batch_size]
        torch.save(images, path)
        print(json.dumps(taken), flush=True)


@contextmanager
def workers(commit: str) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[str]]]:
    """Gives a worker of the code at a commit, and one of this code."""
    archive = subprocess.run(
        ["git", "archive", commit, "ldm_project", "mlflow_carbon"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        started = [_started(Path(folder)), _started(ROOT)]
        try:
            yield started[0], started[1]
        finally:
            for process in started:
                process.terminate()
                process.wait()


def _started(code: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), "--worker"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=code,
        env=os.environ | {"PYTHONPATH": str(code)},
    )  # fmt: skip


def asked(process: subprocess.Popen[str], row: Sequence[int], path: Path) -> tuple[float, float]:
    """Returns the CPU seconds of an image's denoising and of its decoding."""
    assert process.stdin is not None  # both are pipes
    assert process.stdout is not None
    process.stdin.write(json.dumps([*row, str(path)]) + "\n")
    process.stdin.flush()
    denoising_s, decoding_s = json.loads(process.stdout.readline())
    return denoising_s, decoding_s


def peaks_gflop_per_s() -> dict[str, float]:
    """Returns the arithmetic of a large multiplication of matrices per CPU second, by precision."""
    peaks = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        left, right = (torch.randn(MATRIX_SIZE, MATRIX_SIZE).to(dtype) for _ in range(2))
        seconds = []
        for _ in range(8):
            start_s = cpu_s()
            left @ right
            seconds.append(cpu_s() - start_s)
        peaks[name] = 2 * MATRIX_SIZE**3 / min(seconds) / 1e9
    return peaks


def compared(num_rounds: int, commit: str) -> Iterator[str]:
    """Yields the table of both versions as Markdown."""
    from ldm_project.diffusion.flops import cost_of
    from ldm_project.diffusion.models import ModelSpec

    peaks = peaks_gflop_per_s()
    yield f"Peak, GFLOP per CPU second: fp32 {peaks['fp32']:.0f}, bf16 {peaks['bf16']:.0f}."
    yield ""
    yield (
        f"| threads | images | batch | {commit}: CPU ms (decoding) | now: CPU ms (decoding) "
        "| less CPU time | of fp32 peak, before | now | mean difference |"
    )
    yield "|---:|---|---:|---:|---:|---:|---:|---:|---:|"
    with workers(commit) as both, tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("before.pt", "now.pt")]
        for row in ROWS:
            pairs = [
                [asked(process, row, path) for process, path in zip(both, paths, strict=True)]
                for _ in range(num_rounds + 1)
            ][1:]  # the first ones warm up
            before, now = (torch.load(path) for path in paths)
            ratio = statistics.median(sum(old) / sum(new) for old, new in pairs)
            spec = ModelSpec(row[1], SIZES[row[1]], "tiny")
            gflop = cost_of(spec).sample_tflop(STEPS) * 1e3
            totals, decodings = (
                [statistics.median(of(pair[side]) for pair in pairs) for side in (0, 1)]
                for of in (sum, lambda parts: parts[1])
            )
            cells = [
                f"{t * 1e3:.0f} ({d * 1e3:.0f})" for t, d in zip(totals, decodings, strict=True)
            ]
            shares = [f"{gflop / total / peaks['fp32']:.0%}" for total in totals]
            yield (
                f"| {row[0]} | {row[1]}D {'x'.join(map(str, spec.size))} | {row[2]} "
                f"| {cells[0]} | {cells[1]} | {ratio:.2f}× | {shares[0]} | {shares[1]} "
                f"| {(now - before).abs().mean():.1e} |"
            )


def beside_generative(num_rounds: int, batch_size: int = 16) -> Iterator[str]:
    """Yields how many times less CPU time an image takes than by monai-generative, batch 1."""
    from benchmarks.ldm_ways import baseline, ours
    from ldm_project.diffusion.acceleration import hasten_on_cpu
    from ldm_project.diffusion.checkpoints import LdmCheckpoint
    from ldm_project.diffusion.models import ModelSpec, build_unet, build_vqgan

    torch.set_num_threads(1)
    for dims, size in SIZES.items():
        spec, ldms = ModelSpec(dims, size, "tiny"), []
        for backend in ("generative", "core"):
            unet, vqgan = (build(spec, backend=backend) for build in (build_unet, build_vqgan))
            ldms.append(LdmCheckpoint(spec, unet.eval(), vqgan.eval(), 1.0))
        hasten_on_cpu(ldms[1].unet, ldms[1].vqgan, dims=dims)
        ways: dict[str, tuple[Any, int]] = {
            "generative": (baseline(ldms[0], GENERATIVE_STEPS), 1),
            "fp32": (ours(ldms[1], "ddpm", GENERATIVE_STEPS, precision="fp32"), batch_size),
            "bf16": (ours(ldms[1], "ddpm", GENERATIVE_STEPS, precision="bf16"), batch_size),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(num_rounds):
            for name, (sample, num_images) in ways.items():
                start_s = cpu_s()
                sample(range(num_images))
                taken[name].append((cpu_s() - start_s) / num_images)
        for name in ("fp32", "bf16"):
            pairs = zip(taken["generative"], taken[name], strict=True)
            ratio = statistics.median(theirs / own for theirs, own in pairs)
            yield (
                f"{dims}D, DDPM, {GENERATIVE_STEPS} steps: monai-generative "
                f"{statistics.median(taken['generative']):.3g} CPU s, ours in {name} at batch "
                f"{batch_size} {statistics.median(taken[name]):.3g}: {ratio:.1f}× less"
            )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", default=BEFORE, help="Commit to compare with.")
    parser.add_argument("--generative", action="store_true", help="Compare with monai-generative.")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.worker:
        worker()
        return
    lines = (
        beside_generative(options.rounds)
        if options.generative
        else compared(options.rounds, options.before)
    )
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
