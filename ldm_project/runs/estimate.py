"""The estimate command: the cost of an image, predicted from a few steps and decodings."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import mlflow
import torch

from ldm_project.checks import assumptions_of
from ldm_project.diffusion.acceleration import hasten_on_cpu, prepared
from ldm_project.diffusion.checkpoints import LdmCheckpoint
from ldm_project.diffusion.flops import cost_of
from ldm_project.diffusion.memory import (
    BYTES_PER_GB,
    Memory,
    Work,
    free_bytes_of,
    sampling_bytes,
    training_bytes,
)
from ldm_project.diffusion.models import (
    ModelSpec,
    build_unet,
    build_vqgan,
    resolve_device,
    spec_of,
)
from ldm_project.diffusion.sampling import DenoisingStep, decode_samples, denoise, initial_noise
from ldm_project.errors import InvalidInputError
from ldm_project.parsing import size_text
from ldm_project.runs.arithmetic_metrics import tflop_per_unit
from ldm_project.runs.command_runs import command_run
from ldm_project.runs.trained_ldm import precision_of
from ldm_project.settings import EstimateSettings
from mlflow_carbon.accounting.amounts import mass_text
from mlflow_carbon.accounting.emissions import co2e_g
from mlflow_carbon.metering.meter import Meter
from mlflow_carbon.reporting.tables import ENERGY_SCALES, choose_scale

PROBE_S = 2.0  # shortest measurement of the steps, and of the decodings
MIN_PROBED = 2  # fewest steps, and fewest decodings

# The project's own keys: a prediction is not what the run itself spent.
PREFIX = "ldm/estimate"
DURATION_S_PER_SAMPLE = f"{PREFIX}/duration_s_per_sample"
ENERGY_KWH_PER_SAMPLE = f"{PREFIX}/energy_kwh_per_sample"
CO2E_G_PER_SAMPLE = f"{PREFIX}/co2e_g_per_sample"
TRAINING_PEAK_BYTES = f"{PREFIX}/training_peak_bytes"
SAMPLING_PEAK_BYTES = f"{PREFIX}/sampling_peak_bytes"


@dataclass(frozen=True)
class Probe:
    """The mean cost of a piece of work: seconds, and kWh where they can be measured."""

    duration_s: float
    energy_kwh: float | None


@dataclass(frozen=True)
class Prediction:
    """The predicted cost of one image: its decoding, and a part for each step."""

    tflop: float
    duration_s: float
    energy_kwh: float | None


@dataclass(frozen=True)
class MemoryForecast:
    """What a training iteration and a sampling need on the device, and what is free there."""

    training: Memory
    sampling: Memory


def run_estimate(settings: EstimateSettings) -> tuple[str, Prediction, MemoryForecast]:
    """Probes the networks in a run of its own; returns the run's id and what is foretold.

    Raises:
        InvalidInputError: there is not the memory to sample in; the message says what is needed.
    """
    with command_run(settings) as run_id:
        forecast = memory_forecast(settings)
        check_memory(forecast, settings)
        ldm = untrained_ldm(settings)
        prediction = predict(ldm, settings)
        with mlflow.start_run(run_id=run_id):
            mlflow.set_tag("ldm.size", size_text(ldm.spec.size))
            mlflow.log_metrics(_metrics(prediction, settings) | _memory_metrics(forecast))
    return run_id, prediction, forecast


def memory_forecast(settings: EstimateSettings) -> MemoryForecast:
    """Returns the peak memory of ``train`` and of ``synth``, and what this machine has left."""
    spec, device = spec_of(settings), resolve_device(settings.device)
    work = Work(
        batch_size=settings.batch_size,
        precision=precision_of(settings),
        device_type=device.type,
        backend=settings.backend,
    )
    trained = replace(
        work,
        batch_size=settings.training_batch_size,
        checkpoints_gradients=settings.checkpoints_gradients,
    )
    free_bytes = free_bytes_of(device)
    return MemoryForecast(
        training=Memory(training_bytes(spec, trained), free_bytes),
        sampling=Memory(sampling_bytes(spec, work), free_bytes),
    )


def check_memory(forecast: MemoryForecast, settings: EstimateSettings) -> None:
    """Checks that a batch can be sampled here.

    Raises:
        InvalidInputError: it cannot.
    """
    if not forecast.sampling.fits:
        raise InvalidInputError(
            f"Sampling {settings.batch_size} of {size_text(settings.size)} together with "
            f"model_size {settings.model_size} {forecast.sampling.shortage}. Lower batch_size=, "
            f"then size=, then model_size=."
        )


def memory_lines(forecast: MemoryForecast, settings: EstimateSettings) -> list[str]:
    """Returns a forecast of memory as text; a training that does not fit is said so."""
    training, sampling = forecast.training, forecast.sampling
    shortage = (
        ""
        if training.fits
        else f": does not fit, {training.free_bytes / BYTES_PER_GB:.3g} GB are free"
    )
    return [
        f"memory  {sampling.needed_bytes / BYTES_PER_GB:.3g} GB to sample "
        f"{settings.batch_size} together",
        f"        {training.needed_bytes / BYTES_PER_GB:.3g} GB to train the UNet on "
        f"{settings.training_batch_size} together{shortage}",
    ]


def untrained_ldm(settings: EstimateSettings) -> LdmCheckpoint:
    """Returns networks of the size asked for with random weights.

    The cost of a network depends on its shape and not on its weights, so no training is needed.
    """
    spec, device = spec_of(settings), resolve_device(settings.device)
    unet = build_unet(spec, backend=settings.backend).to(device).eval().requires_grad_(False)
    vqgan = build_vqgan(spec, backend=settings.backend).to(device).eval().requires_grad_(False)
    if settings.backend == "core":  # as a trained model is loaded
        hasten_on_cpu(unet, vqgan, dims=spec.dims)
    unet = prepared(unet, precision=precision_of(settings), is_compiled=settings.is_compiled)
    return LdmCheckpoint(spec=spec, unet=unet, vqgan=vqgan, latent_scale=1.0)


def predict(ldm: LdmCheckpoint, settings: EstimateSettings) -> Prediction:
    """Returns the predicted cost of an image of a batch, from a few steps and decodings."""
    steps = _endless_steps(ldm, settings)
    next(steps)  # warms up: memory, and the compiler if it is on
    latents = next(steps).latents  # a GPU records its kernels in the second step
    meter = Meter()
    meter.start()
    try:
        step = probe(meter, lambda: next(steps))
        decoding = probe(meter, lambda: decode_samples(ldm.vqgan, latents, ldm.latent_scale))
    finally:
        meter.stop()
    return predicted(ldm.spec, settings, step=step, decoding=decoding)


def predicted(
    spec: ModelSpec, settings: EstimateSettings, *, step: Probe, decoding: Probe
) -> Prediction:
    """Returns the cost of an image, given the cost of a step and of a decoding of its batch."""
    batch_size = settings.batch_size
    energy_kwh = None
    if step.energy_kwh is not None and decoding.energy_kwh is not None:
        energy_kwh = (decoding.energy_kwh + settings.steps * step.energy_kwh) / batch_size
    return Prediction(
        tflop=cost_of(spec).sample_tflop(settings.steps),
        duration_s=(decoding.duration_s + settings.steps * step.duration_s) / batch_size,
        energy_kwh=energy_kwh,
    )


def probe(meter: Meter, work: Callable[[], object], *, probe_s: float = PROBE_S) -> Probe:
    """Returns the mean cost of ``work``, which is repeated for at least ``probe_s`` seconds."""
    window, num_done, start_s = meter.open_window(), 0, time.monotonic()
    while num_done < MIN_PROBED or time.monotonic() - start_s < probe_s:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        num_done += 1
    reading = meter.close_window(window)
    energy_kwh = None if reading.energy_kwh is None else reading.energy_kwh / num_done
    return Probe(reading.duration_s / num_done, energy_kwh)


def prediction_lines(prediction: Prediction, settings: EstimateSettings) -> list[str]:
    """Returns a prediction as text; its last line names the basis."""
    lines = [
        f"TFLOP   {prediction.tflop:.4g} per sample, at {settings.steps} steps",
        f"time    {prediction.duration_s:.4g} s per sample, "
        f"{prediction.tflop / prediction.duration_s:.3g} TFLOP/s",
    ]
    if prediction.energy_kwh is None:
        lines.append("energy  not measured here: `mlflow-carbon doctor` says why")
    else:
        scale = choose_scale([prediction.energy_kwh], ENERGY_SCALES)
        lines.append(f"energy  {scale.text(prediction.energy_kwh, 3)} {scale.symbol} per sample")
        lines.append(
            f"CO2e    {mass_text(_co2e_g(prediction.energy_kwh, settings))} per sample, at "
            f"{assumptions_of(settings).intensity.label}"
        )
    return [*lines, "Predicted from a few steps and decodings of untrained networks of this size."]


def _endless_steps(ldm: LdmCheckpoint, settings: EstimateSettings) -> Iterator[DenoisingStep]:
    indices = range(settings.batch_size)
    noise = initial_noise(ldm.spec, indices, seed=settings.seed)
    while True:
        yield from denoise(
            ldm.unet,
            noise,
            sampler=settings.sampler,
            steps=settings.steps,
            precision=precision_of(settings),
        )


def _metrics(prediction: Prediction, settings: EstimateSettings) -> dict[str, float]:
    metrics = {
        tflop_per_unit("sample"): prediction.tflop,
        DURATION_S_PER_SAMPLE: prediction.duration_s,
    }
    if prediction.energy_kwh is not None:
        metrics[ENERGY_KWH_PER_SAMPLE] = prediction.energy_kwh
        metrics[CO2E_G_PER_SAMPLE] = _co2e_g(prediction.energy_kwh, settings)
    return metrics


def _memory_metrics(forecast: MemoryForecast) -> dict[str, float]:
    return {
        TRAINING_PEAK_BYTES: float(forecast.training.needed_bytes),
        SAMPLING_PEAK_BYTES: float(forecast.sampling.needed_bytes),
    }


def _co2e_g(energy_kwh: float, settings: EstimateSettings) -> float:
    assumed = assumptions_of(settings)
    return co2e_g(energy_kwh, pue=assumed.pue, intensity_g_per_kwh=assumed.intensity.g_per_kwh)
