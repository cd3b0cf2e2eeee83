"""The quality command: judges samplers and step counts, and measures each in a run of its own."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from textwrap import wrap

import mlflow
import torch
from mlflow import MlflowClient
from torch import Tensor

from ldm_project.config import HELD_OUT_FRACTION, MAX_SLICE_EPOCHS, PHANTOM
from ldm_project.ct.data import CtScans, data_spec, open_scans
from ldm_project.ct.hounsfield import network_from_hu
from ldm_project.diffusion.autoencoders import decode, encode
from ldm_project.diffusion.checkpoints import LdmCheckpoint
from ldm_project.diffusion.feature_networks import FeatureNetwork, load_feature_network
from ldm_project.diffusion.fidelity import doubts
from ldm_project.diffusion.iso_quality import Setting, iso_quality, pareto_front
from ldm_project.diffusion.models import resolve_device
from ldm_project.diffusion.noise_schedulers import check_sampler
from ldm_project.diffusion.quality import (
    Features,
    ImageSet,
    Quality,
    features_of_encoder,
    image_set,
    judge,
    pair_ms_ssim,
)
from ldm_project.diffusion.second_judge import train_second_judge
from ldm_project.diffusion.verdict import shortfalls
from ldm_project.errors import DataError
from ldm_project.parsing import num_phantoms
from ldm_project.runs.command_runs import command_run, tracked
from ldm_project.runs.references import ModelReference
from ldm_project.runs.run_names import run_name
from ldm_project.runs.synth import (
    batches_of,
    log_sampling_arithmetic,
    sample_batches,
    sampled_images,
    sampling_run,
)
from ldm_project.runs.trained_ldm import open_ldm, precision_of, trained_ldm
from ldm_project.settings import QualitySettings, SynthSettings, TrainSettings
from mlflow_carbon.contract import keys

MAX_REAL_IMAGES = 512  # of each kind
MIN_VOLUMES = 2  # of each kind: one has no spread
REPORT_FILE = "quality.json"
REPORT_WIDTH = 79  # columns

# The project's own keys.
CO2E_G_PER_ACCEPTED_SAMPLE = "ldm/co2e_g_per_accepted_sample"
ISO_QUALITY_CO2E_G_PER_SAMPLE = "ldm/iso_quality/co2e_g_per_sample"
ISO_QUALITY_SAVING_FRACTION = "ldm/iso_quality/saving_fraction"
TAG_ISO_QUALITY = "ldm.iso_quality"
TAG_DOUBTS = "ldm.iso_quality_doubts"
TAG_SHORTFALLS = "ldm.shortfalls"  # why a setting's images are not as good as those of all steps
TAG_QUALITY_RUN_ID = "ldm.quality_run_id"
TAG_SETTING = "ldm.setting"
TAG_KID = "ldm.kid"  # as text, for compare --group-by


@dataclass(frozen=True)
class RealImages:
    """Real training images, held-out images, and reconstructions of the held-out images."""

    training: ImageSet
    held_out: ImageSet
    reconstructed: ImageSet
    features: Features  # by which they were judged, and samples will be
    num_held_out: int  # 0 if all scans are of one patient: ``held_out`` are then those trained on
    judge_accuracy: float  # of the second judge, on held-out images
    held_out_quality: Quality  # against training images: what reconstructions are held to

    @property
    def anchor(self) -> Quality:
        """The best quality that can be expected of samples.

        It is that of the held-out images, but how alike pairs are is of the training images, which
        samples are to vary like: a few held-out patients may be more alike, or less.
        """
        return replace(self.held_out_quality, pair_ms_ssim=pair_ms_ssim(self.training.examples))


@dataclass(frozen=True)
class QualityReport:
    """Every setting, 1000 steps first, and the quality of real and of reconstructed images."""

    settings: tuple[Setting, ...]
    best: Setting | None
    front: tuple[Setting, ...]
    real: Quality  # held-out against training images: the best quality that can be expected
    reconstruction: Quality  # what the autoencoder alone loses
    doubts: tuple[str, ...] = ()  # why settings cannot be told apart; ``best`` is then ``None``


def run_quality(settings: QualitySettings) -> tuple[str, QualityReport]:
    """Samples every setting in a run of its own, and judges them; returns the command's own run.

    The command's own run is not metered: the sampling is measured in the runs of the settings.
    """
    with command_run(settings) as run_id:
        published = published_network(settings)  # a bad file is refused before any training
        check_number_of_scans(settings.training)
        reference = trained_ldm(settings, run_id)
        ldm = open_ldm(reference, settings)
        for way in settings.grid:
            check_sampler(way.sampler, ldm.objective)
        real = real_images(ldm, _as_trained(settings.training, reference), published)
        judged, all_steps = [], None
        for way in settings.grid:  # all steps come first
            setting, images = _sampled_setting(way, ldm, reference, real, all_steps, run_id)
            judged.append(setting)
            all_steps = all_steps or images
        report = _report(judged, real, num_images=settings.num_samples)
        with mlflow.start_run(run_id=run_id):
            _log_report(report)
    return run_id, report


def _report(judged: Sequence[Setting], real: RealImages, *, num_images: int) -> QualityReport:
    """Returns the report on settings, 1000 steps first, of so many images each."""
    reconstruction = judge(real.reconstructed, real.training, real.held_out)
    found = doubts(
        real=real.anchor,
        held_out=real.held_out_quality,
        reconstruction=reconstruction,
        reference=judged[0].quality,
        num_images=num_images,
        num_real=real.num_held_out,
        judge_accuracy=real.judge_accuracy,
    )
    return QualityReport(
        settings=tuple(judged),
        best=None if found else iso_quality(judged),
        front=tuple(pareto_front(judged)),
        real=real.anchor,
        reconstruction=reconstruction,
        doubts=found,
    )


def _as_trained(training: TrainSettings, reference: ModelReference) -> TrainSettings:
    """Returns settings with the phantoms that a model was trained on, where its run names them.

    Others would hold out what the model has seen.
    """
    if training.data != PHANTOM or reference.run_id is None:
        return training
    data = MlflowClient().get_run(reference.run_id).data.params.get("data", PHANTOM)
    return replace(training, data=data) if num_phantoms(data) else training


def published_network(settings: QualitySettings) -> FeatureNetwork | None:
    """Returns the chosen network; ``None`` if the settings name none.

    Raises:
        CheckpointError: the file holds no such network.
    """
    if settings.features is None:
        return None
    return load_feature_network(settings.features, settings.dims, resolve_device(settings.device))


def check_number_of_scans(settings: TrainSettings) -> None:
    """Checks that volumes can be judged: their spread is not known of one alone.

    Slices of one scan are enough.

    Raises:
        DataError: fewer than two volumes are trained on, or held out.
    """
    if settings.dims == 2:
        return
    parts = open_scans(data_spec(settings)).split(HELD_OUT_FRACTION)
    num_seen, num_held_out = (len(part.scans) for part in parts)
    if min(num_seen, num_held_out) < MIN_VOLUMES:
        raise DataError(
            f"data is {settings.data!r}: {num_seen} volume(s) to train on, {num_held_out} to judge "
            f"by. quality compares spreads, so it needs {MIN_VOLUMES} of each: add scans of other "
            "patients, or judge slices by dims=2."
        )


def real_images(
    ldm: LdmCheckpoint, settings: TrainSettings, published: FeatureNetwork | None = None
) -> RealImages:
    """Returns the real images that samples are judged by, split by patient as in training.

    The first judge is the published network, else the VQ-GAN; the second is trained here.
    """
    training, held_out = open_scans(data_spec(settings)).split(HELD_OUT_FRACTION)
    seen, unseen = (_images_of(scans, settings.dims) for scans in (training, held_out))
    second = train_second_judge(seen, unseen)
    features = features_of_encoder(ldm.vqgan, second.features)
    if published is not None:
        features = replace(features, of=published.features, keeps_scale=True)
    with torch.inference_mode():
        decoded = torch.cat([decode(ldm.vqgan, encode(ldm.vqgan, image[None])) for image in unseen])
    trained_on, held, again = (image_set(features, it) for it in (seen, unseen, decoded.cpu()))
    return RealImages(
        training=trained_on,
        held_out=held,
        reconstructed=again,
        features=features,
        num_held_out=0 if held_out is training else len(unseen),
        judge_accuracy=second.accuracy_fraction,
        held_out_quality=judge(held, trained_on, held),
    )


def _images_of(scans: CtScans, dims: int) -> Tensor:
    """Returns volumes, or the slices of the training's epochs; at most 512 images."""
    num_epochs = MAX_SLICE_EPOCHS if dims == 2 else 1
    images = (image for epoch in range(num_epochs) for image in scans.images(epoch))
    return torch.stack(list(islice(images, MAX_REAL_IMAGES)))


def _sampled_setting(
    way: SynthSettings,
    ldm: LdmCheckpoint,
    reference: ModelReference,
    real: RealImages,
    all_steps: ImageSet | None,
    quality_run_id: str,
) -> tuple[Setting, ImageSet]:
    """Samples one setting in a run of its own, measured as ``synth`` does, and judges it.

    Against the images of all steps, or none if these are theirs.
    """
    tags = {TAG_QUALITY_RUN_ID: quality_run_id, TAG_SETTING: f"{way.sampler} {way.steps}"}
    with (
        command_run(
            way, name=f"setting of {run_name(way)}", triggered_by_run_id=quality_run_id
        ) as run_id,
        sampling_run(way, reference, run_id, tags=tags),
    ):
        with tracked(way, unit="sample", total_units=way.num_samples) as tracker:
            batches = [batch.images_hu for batch in sample_batches(tracker, ldm, way)]
        log_sampling_arithmetic(run_id, ldm, way)
        if way.sampler == "dpmpp_sde" and all_steps is not None:
            batches = _images_of_same_noise(ldm, way)
        images = image_set(real.features, network_from_hu(torch.cat(batches)))
        setting = judged_setting(images, all_steps, real, sampler=way.sampler, steps=way.steps)
        measured = MlflowClient().get_run(run_id).data.metrics
        cost_g = measured.get(keys.co2e_g_per_unit("sample"))
        setting = replace(setting, co2e_g_per_sample=cost_g)
        mlflow.log_metrics(quality_metrics(setting.quality))
        mlflow.set_tag(TAG_KID, kid_text(setting.quality))
        if setting.shortfalls:
            mlflow.set_tag(TAG_SHORTFALLS, "; ".join(setting.shortfalls))
        if setting.co2e_g_per_accepted_sample is not None:
            mlflow.log_metric(CO2E_G_PER_ACCEPTED_SAMPLE, setting.co2e_g_per_accepted_sample)
    return setting, images


def _images_of_same_noise(ldm: LdmCheckpoint, way: SynthSettings) -> list[Tensor]:
    """Returns batches of a setting's images that share all noise with ``ddpm`` at all steps.

    They are not measured: drawing that noise is no part of what the setting costs.
    """
    return [
        sampled_images(ldm, way, indices, precision_of(way), has_noise_of_ddpm=True)
        for indices in batches_of(way.num_samples, way.batch_size)
    ]


def judged_setting(
    images: ImageSet, all_steps: ImageSet | None, real: RealImages, *, sampler: str, steps: int
) -> Setting:
    """Returns the quality of a setting's images, of unknown cost.

    Args:
        images: of the setting.
        all_steps: the reference's images, of the same noise; ``None`` for the reference itself.
        real: what images are held to.
        sampler: of the setting.
        steps: of the setting.
    """
    quality = judge(images, real.training, real.held_out)
    if all_steps is None:
        return Setting(sampler, steps, None, quality)
    found = shortfalls(images, all_steps, real.training, quality=quality, real=real.anchor)
    return Setting(sampler, steps, None, quality, found)


def quality_metrics(quality: Quality, *, of: str = "") -> dict[str, float]:
    """Returns a quality as metrics: ``ldm/kid``, or ``ldm/<of>/kid`` for an anchor."""
    place = f"ldm/{of}/" if of else "ldm/"
    return {
        f"{place}kid": quality.kid.value,
        f"{place}kid_low": quality.kid.low,
        f"{place}kid_high": quality.kid.high,
        f"{place}frechet": quality.frechet.value,
        f"{place}frechet_low": quality.frechet.low,
        f"{place}frechet_high": quality.frechet.high,
        f"{place}plane_frechet": quality.plane_frechet.value,
        f"{place}plane_frechet_low": quality.plane_frechet.low,
        f"{place}plane_frechet_high": quality.plane_frechet.high,
        f"{place}hu_wasserstein": quality.hu_wasserstein,
        f"{place}pair_ms_ssim": quality.pair_ms_ssim,
        f"{place}memorised_fraction": quality.memorised_fraction,
        f"{place}repeated_fraction": quality.repeated_fraction,
        f"{place}accepted_fraction": quality.accepted_fraction,
    }


def kid_text(quality: Quality) -> str:
    """Returns a kernel distance with its interval."""
    kid = quality.kid
    return f"{kid.value:.2g} ({kid.low:.2g} to {kid.high:.2g})"


def _log_report(report: QualityReport) -> None:
    mlflow.log_metrics(quality_metrics(report.real, of="real"))
    mlflow.log_metrics(quality_metrics(report.reconstruction, of="reconstruction"))
    mlflow.log_metrics(quality_metrics(report.settings[0].quality, of="reference"))
    mlflow.log_text(json.dumps(asdict(report), indent=2), REPORT_FILE)
    if report.doubts:
        mlflow.set_tag(TAG_DOUBTS, " ".join(report.doubts))
    if report.best is None:
        return
    mlflow.set_tag(TAG_ISO_QUALITY, f"{report.best.sampler} {report.best.steps}")
    cost, most = (found.co2e_g_per_accepted_sample for found in (report.best, report.settings[0]))
    if cost is not None:
        mlflow.log_metric(ISO_QUALITY_CO2E_G_PER_SAMPLE, cost)
    if cost is not None and most is not None:
        mlflow.log_metric(ISO_QUALITY_SAVING_FRACTION, 1 - cost / most)


def report_lines(report: QualityReport) -> list[str]:
    """Returns the settings as a table of 79 columns, the anchors below it, and the answer."""
    lines = [
        f"{'setting':<14}{'mg CO2e':>9}{'KID':>8}{'95 %':>17}"
        f"{'Frechet':>9}{'HU':>5}{'alike':>6}{'copied':>7}"
    ]
    for setting in report.settings:
        cost_g = setting.co2e_g_per_accepted_sample
        mark = "*" if setting in report.front else ""
        lines.append(_row(f"{setting.sampler} {setting.steps}{mark}", cost_g, setting.quality))
    lines.append(_row("real", None, report.real))
    lines.append(_row("reconstructed", None, report.reconstruction))
    return [
        *lines,
        "mg CO2e per accepted image; * nothing else is both cheaper and better by KID.",
        *_shortfall_lines(report),
        *_answer_lines(report),
    ]


def _row(name: str, cost_g: float | None, quality: Quality) -> str:
    cost = "-" if cost_g is None else f"{cost_g * 1000:.4g}"
    kid, low, high = map(_short, (quality.kid.value, quality.kid.low, quality.kid.high))
    return (
        f"{name:<14}{cost:>9}{kid:>8}{f'{low} to {high}':>17}"
        f"{_short(quality.frechet.value):>9}{quality.hu_wasserstein:>5.0f}"
        f"{quality.pair_ms_ssim:>6.2f}{quality.memorised_fraction:>7.0%}"
    )


def _short(value: float) -> str:
    """Returns a number with two digits or as a whole number: an exponent would be too wide."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}"


def _shortfall_lines(report: QualityReport) -> list[str]:
    """Returns why each setting is not as good as all steps; nothing if no setting can be judged."""
    if report.doubts:
        return []
    texts = [
        f"{setting.sampler} {setting.steps} is not shown to be as good: "
        f"{'; '.join(setting.shortfalls)}."
        for setting in report.settings
        if setting.shortfalls
    ]
    return [line for text in texts for line in wrap(text, REPORT_WIDTH, subsequent_indent="  ")]


def _answer_lines(report: QualityReport) -> list[str]:
    if not report.doubts:
        return wrap(_answer(report.best, report.settings[0], len(report.settings)), REPORT_WIDTH)
    reasons = (line for doubt in report.doubts for line in wrap(f"- {doubt}", REPORT_WIDTH))
    return ["iso-quality: cannot be judged, so no setting is named:", *reasons]


def _answer(best: Setting | None, reference: Setting, num_settings: int) -> str:
    if best is reference and num_settings > 1:
        return (
            f"iso-quality: no setting is shown to be as good as {reference.sampler} "
            f"{reference.steps}; more num_samples narrow the interval."
        )
    if best is None or best.co2e_g_per_accepted_sample is None:
        return "iso-quality: no setting that is as good as 1000 steps has an image to accept."
    cost_g, most_g = best.co2e_g_per_accepted_sample, reference.co2e_g_per_accepted_sample
    answer = f"iso-quality: {best.sampler} {best.steps}, {cost_g * 1000:.4g} mg CO2e"
    if most_g is None:
        return answer
    return f"{answer}: {most_g / cost_g:.3g} times less than {reference.sampler} {reference.steps}"
