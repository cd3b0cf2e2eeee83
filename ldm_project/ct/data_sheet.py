"""What a training's CT is: spacing, range of HU, sizes, and what the crop leaves of each scan."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from ldm_project.config import HU_MAX, HU_MIN
from ldm_project.ct.crops import ScanFacts
from ldm_project.ct.data import CtScans
from ldm_project.parsing import size_text

AXES = ("x", "y", "z")  # to the right, front and top


@dataclass(frozen=True)
class Spread:
    """The least, the median and the largest of a figure over the scans that have it."""

    least: float
    median: float
    most: float


@dataclass(frozen=True)
class DataSheet:
    """Statistics of the scans of a training; it names neither a folder nor a patient.

    Attributes:
        kind: ``phantom`` or ``files``.
        digest: of the data set, as the run's tag has it.
        num_scans: that can be used.
        num_patients: of these scans.
        num_held_out_patients: of them, whose scans are not trained on.
        num_skipped: scans and files that cannot be used.
        image_size: of an image, text as the parameter takes it.
        patch_size: of what the VQ-GAN learns from; ``None`` for whole images.
        figures: by name with its unit; empty for phantoms.
    """

    kind: str
    digest: str
    num_scans: int
    num_patients: int
    num_held_out_patients: int
    num_skipped: int
    image_size: str
    patch_size: str | None
    figures: dict[str, Spread]


def data_sheet(
    scans: CtScans, training: CtScans, *, patch_size: tuple[int, ...] | None = None
) -> DataSheet:
    """Returns the statistics of scans.

    Args:
        scans: all of them.
        training: those of them that are trained on.
        patch_size: of what is trained on; ``None`` for whole images.
    """
    patients = {scan.patient for scan in scans.scans}
    trained_on = {scan.patient for scan in training.scans}
    facts = [scan.facts for scan in scans.scans if scan.facts is not None]
    return DataSheet(
        kind="phantom" if scans.is_phantom else "files",
        digest=scans.digest,
        num_scans=scans.num_scans,
        num_patients=len(patients),
        num_held_out_patients=len(patients - trained_on),
        num_skipped=scans.num_skipped,
        image_size=size_text(scans.scans[0].size),
        patch_size=None if patch_size is None else size_text(patch_size),
        figures=_figures(facts),
    )


def _figures(facts: Sequence[ScanFacts]) -> dict[str, Spread]:
    """Returns the spread of each figure that at least one scan has."""
    outside = f"outside {HU_MIN:g} to {HU_MAX:g} HU, clipped (%)"
    measured: list[tuple[str, list[float | None]]] = [
        *_by_axis("size {} (voxels)", [fact.shape for fact in facts]),
        *_by_axis("spacing {} (mm)", [fact.spacing_mm for fact in facts]),
        ("lowest (HU)", [fact.lowest_hu for fact in facts]),
        ("highest (HU)", [fact.highest_hu for fact in facts]),
        (outside, [100 * fact.outside_fraction for fact in facts]),
        ("scan cut away by the crop (%)", [100 * (1 - fact.kept_fraction) for fact in facts]),
        ("crop that is added air (%)", [100 * fact.padded_fraction for fact in facts]),
    ]
    spreads = {}
    for name, figures in measured:
        values = [value for value in figures if value is not None]
        if values:
            spreads[name] = Spread(min(values), median(values), max(values))
    return spreads


def _by_axis(
    name: str, figures: Sequence[tuple[float, ...] | None]
) -> list[tuple[str, list[float | None]]]:
    """Returns a figure of each axis by its name, in which ``{}`` stands for the axis."""
    return [
        (name.format(axis), [None if figure is None else figure[number] for figure in figures])
        for number, axis in enumerate(AXES)
    ]


def sheet_lines(sheet: DataSheet) -> list[str]:
    """Returns the statistics as text for a terminal: a sentence, and a table if scans were read."""
    if not sheet.figures:
        return [_sentence(sheet)]
    return [
        _sentence(sheet),
        f"{'':<40}{'least':>10}{'median':>10}{'most':>10}",
        *(
            f"{name:<40}{spread.least:>10.4g}{spread.median:>10.4g}{spread.most:>10.4g}"
            for name, spread in sheet.figures.items()
        ),
    ]


def sheet_markdown(sheet: DataSheet) -> str:
    """Returns the statistics as a document in Markdown."""
    rows = [
        f"| {name} | {spread.least:.4g} | {spread.median:.4g} | {spread.most:.4g} |"
        for name, spread in sheet.figures.items()
    ]
    table = ["", "| | least | median | most |", "|---|---|---|---|", *rows] if rows else []
    digest = f"Digest of the data set: `{sheet.digest}`."
    return "\n".join(["# Data sheet", "", _sentence(sheet), "", digest, *table, ""])


def _sentence(sheet: DataSheet) -> str:
    what = "scan" if sheet.num_scans == 1 else "scans"
    if sheet.kind == "phantom":
        what = "phantoms, drawn here"
    patients = "1 patient" if sheet.num_patients == 1 else f"{sheet.num_patients} patients"
    held_out = f"{sheet.num_held_out_patients} of them held out"
    if sheet.num_held_out_patients == 0:
        held_out = "none of them held out: one patient is no training set"
    left_out = f"; {sheet.num_skipped} left out" if sheet.num_skipped else ""
    patches = f", learned from in patches of {sheet.patch_size}" if sheet.patch_size else ""
    return (
        f"Data: {sheet.num_scans} {what}, of {patients}, {held_out}{left_out}. "
        f"Images of {sheet.image_size}{patches}."
    )
