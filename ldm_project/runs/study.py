"""The study command: the paper's grid, cell by cell, each measured in a run of its own."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from mlflow import MlflowClient
from rich.console import Console

from ldm_project.diffusion.flops import Cost
from ldm_project.diffusion.models import resolve_device
from ldm_project.errors import LdmProjectError
from ldm_project.price import Price
from ldm_project.runs.estimate import probe
from ldm_project.runs.study_cell import WindowDone
from ldm_project.runs.study_jobs import SLURM, CellJobs, launcher_of
from ldm_project.runs.study_measuring import Outcome, measure_cell, place_for, unfit
from ldm_project.runs.study_runs import end_study, spent_g, study_run
from ldm_project.runs.study_table import Board, Line
from ldm_project.study.cells import Cell
from ldm_project.study.outlook import Outlook, Seen, outlook, probe_of, tflop_per_unit
from ldm_project.study.study_settings import StudySettings
from ldm_project.study.work import Place, free_memory, use_threads_of, work_of
from mlflow_carbon.accounting.emissions import co2e_g
from mlflow_carbon.contract import study_tags
from mlflow_carbon.contract.assumptions import Assumptions
from mlflow_carbon.metering.meter import Meter
from mlflow_carbon.pictures.study_pictures import study_illustrations
from mlflow_carbon.reporting.study_cells import StudyCell, read_cell, read_study
from mlflow_carbon.reporting.study_findings import findings_of
from mlflow_carbon.reporting.study_report import findings_frame, study_html, study_markdown
from mlflow_carbon.reporting.tables import to_csv
from mlflow_carbon.units import grams_from_kg, kg_from_grams

PROBE_S = 1.0  # shortest measurement of a probe
QUICK_S = 0.5  # longest part of a second probe, as expected


@dataclass(frozen=True)
class Plan:
    """The cells of a study in the order in which they run, and the TFLOP of a unit of each."""

    settings: StudySettings
    cells: tuple[Cell, ...]
    tflop: dict[str, float]  # by the cell's name
    known: dict[str, Cost]  # of networks counted so far
    price: Price
    assumptions: Assumptions
    device: torch.device

    def place_of(self, cell: Cell) -> Place:
        """Returns the device, precision and sampler of a cell."""
        settings = self.settings
        return place_for(
            cell,
            self.device,
            precision=settings.precision,
            sampler=settings.sampler,
            seed=settings.seed,
        )

    def lines(self, seen: Sequence[Seen]) -> list[Line]:
        """Returns a line for each cell, with its forecast."""
        return [Line(cell, outlook(cell, self.tflop[cell.name], seen)) for cell in self.cells]


def run_study(settings: StudySettings, *, probe_s: float = PROBE_S) -> list[str]:
    """Runs a study, or lists its cells; returns what a reader of the end must know, line by line.

    The table of a running study is drawn on stderr.

    Args:
        settings: of the study.
        probe_s: shortest measurement of a probe.

    Raises:
        InvalidInputError: a parameter is out of range.
        LdmProjectError: cells have failed; all others are done.
    """
    plan = plan_of(settings)
    use_threads_of(settings.axes.model_sizes)
    if settings.is_dry:
        board = Board(plan.lines(probed(plan, probe_s=probe_s)), plan.assumptions, Console())
        return board.told()
    with study_run(settings) as study:
        done = _done_cells(study.run_id) if study.is_resumed else {}
        seen = _seen_before(done, plan)
        if settings.config.launcher != SLURM:  # its jobs run on other machines than this
            seen = probed(plan, seen, probe_s=probe_s)
        board = Board(plan.lines(seen), plan.assumptions, Console(stderr=True))
        run_cells = _launch_cells if settings.is_launched else _run_cells
        with board.shown():
            _show_done(board, done)
            stop = run_cells(plan, board, study.run_id, seen)
        failed = [line.cell.name for line in board.lines if line.state == study_tags.FAILED]
        state = study_tags.FAILED if failed else study_tags.STOPPED if stop else study_tags.DONE
        problem = stop or (f"failed: {', '.join(failed)}" if failed else "")
        _log_report(study.run_id)
        end_study(study.run_id, state, problem)
    lines = [*_told(board, study.run_id), *([stop] if stop else [])]
    if failed:
        print("\n".join(lines), file=sys.stderr)
        raise LdmProjectError(
            f"{len(failed)} of {len(plan.cells)} cells have failed, {failed[0]!r} first; their "
            "runs say why. Repeat the command to try them again."
        )
    return lines


def plan_of(settings: StudySettings) -> Plan:
    """Returns a study's cells, those with the least arithmetic first, so that a budget gets most.

    Raises:
        MlflowCarbonError: no such region, month, PUE or device.
    """
    price = Price(region=settings.region, month=settings.month, pue=settings.pue)
    assumptions = price.assumptions()
    device = resolve_device(settings.device)
    known: dict[str, Cost] = {}
    tflop = {cell.name: tflop_per_unit(cell, known) for cell in settings.cells}
    cells = sorted(settings.cells, key=lambda cell: cell.num_units * tflop[cell.name])
    return Plan(settings, tuple(cells), tflop, known, price, assumptions, device)


def probed(plan: Plan, seen: Sequence[Seen] = (), *, probe_s: float = PROBE_S) -> list[Seen]:
    """Returns the costs that are known of a study's tasks; probes small cells of the others.

    The smallest cell of a task is probed, and the largest that is quick at its rate: small
    networks wait more than they compute. Nothing gets known of a task whose cells do not run.
    """
    known = list(seen)
    for task in dict.fromkeys(cell.task for cell in plan.cells):
        if any(work.task == task for work in known):
            continue
        pieces = [probe_of(cell) for cell in plan.cells if cell.task == task]
        tflop = {piece: tflop_per_unit(piece, plan.known) for piece in pieces}
        smallest = min(pieces, key=lambda piece: tflop[piece])
        first = _probe(plan, smallest, probe_s)
        if first is None:
            continue
        known.append(first)
        rate_s = first.duration_s / first.tflop
        quick = [it for it in pieces if tflop[it] * rate_s <= QUICK_S and it != smallest]
        second = _probe(plan, max(quick, key=lambda it: tflop[it]), probe_s) if quick else None
        known += [] if second is None else [second]
    return known


def _probe(plan: Plan, piece: Cell, probe_s: float) -> Seen | None:
    """Returns the cost of a unit of a cell's work, after a part that warms up.

    Returns:
        ``None`` where the cell does not fit or fails: its own run will say why.
    """
    place = plan.place_of(piece)
    if unfit(piece, place):
        return None
    meter = Meter()
    meter.start()
    try:
        work = work_of(piece, place)
        next(work)
        taken = probe(meter, lambda: next(work), probe_s=probe_s)
    except (LdmProjectError, RuntimeError, MemoryError):
        return None
    finally:
        meter.stop()
        free_memory()
    units_per_part = 1 if piece.steps is None else piece.batch_size
    energy_kwh = None if taken.energy_kwh is None else taken.energy_kwh / units_per_part
    tflop = tflop_per_unit(piece, plan.known)
    return Seen(piece.task, tflop, taken.duration_s / units_per_part, energy_kwh)


def _show_done(board: Board, done: Mapping[str, StudyCell]) -> None:
    """Fills the lines of cells that an interrupted study has done."""
    for line in board.lines:
        if line.cell.name in done:
            _fill(line, done[line.cell.name], "from before")
            board.update(line, is_over=True)


def _run_cells(plan: Plan, board: Board, run_id: str, seen: list[Seen]) -> str:
    """Runs the cells that are not done; returns why it stopped before the end, "" if it did not."""
    for line in board.waiting:
        stop = _beyond_budget(plan, line, run_id)
        if stop:
            return stop
        _run_line(plan, board, line, run_id)
        _learn(plan, board, line, seen)
        board.update(line, is_over=True)
    return ""


def _launch_cells(plan: Plan, board: Board, run_id: str, seen: list[Seen]) -> str:
    """Runs the cells that are not done as jobs; returns as ``_run_cells`` does.

    A budget lets the jobs end that have begun.
    """
    launcher = launcher_of(plan.settings)
    by_name = {line.cell.name: line for line in board.lines}
    waiting, stop = list(board.waiting), ""
    with CellJobs(launcher, plan.settings, plan.price, run_id) as jobs:
        while jobs.num_running or (waiting and not stop):
            while waiting and not stop and jobs.num_running < launcher.num_at_once:
                stop = _beyond_budget(plan, waiting[0], run_id)
                if not stop:
                    line = waiting.pop(0)
                    line.state = study_tags.RUNNING
                    jobs.submit(line.cell)
                    board.update(line)
            for outcome in jobs.ended():
                line = by_name[outcome.cell_name]
                _end_line(line, outcome)
                _learn(plan, board, line, seen)
                board.update(line, is_over=True)
    return stop


def _learn(plan: Plan, board: Board, line: Line, seen: list[Seen]) -> None:
    """Lets a cell that is done tell what the others will take."""
    if line.state != study_tags.DONE or line.outlook.duration_s is None:
        return
    seen.append(_seen_of(line.cell, plan, line.outlook))
    for other in board.waiting:
        other.outlook = outlook(other.cell, plan.tflop[other.cell.name], seen)


def _run_line(plan: Plan, board: Board, line: Line, parent_run_id: str) -> None:
    """Runs one cell in a run of its own, whatever becomes of it."""

    def begun() -> None:
        line.state = study_tags.RUNNING
        board.update(line)

    def done(window: WindowDone) -> None:
        line.num_windows_done = window.number
        board.update(line)

    start_s = time.monotonic()
    place = plan.place_of(line.cell)
    outcome = measure_cell(parent_run_id, line.cell, place, plan.price, begun=begun, done=done)
    _end_line(line, outcome, time.monotonic() - start_s)


def _end_line(line: Line, outcome: Outcome, duration_s: float | None = None) -> None:
    """Writes into a line what became of its cell."""
    line.state, line.note = outcome.state, outcome.problem
    if outcome.state == study_tags.DONE:
        client = MlflowClient()
        measured = read_cell(client, client.get_run(outcome.run_id))
        _fill(line, measured, measured.problem, duration_s)


def _beyond_budget(plan: Plan, line: Line, run_id: str) -> str:
    """Returns why the next cell may not begin; "" if the budget allows it, or there is none."""
    budget_kg = plan.settings.carbon_budget_kg
    if budget_kg is None:
        return ""
    spent = spent_g(run_id)
    next_g = 0.0
    if line.outlook.energy_kwh is not None:
        next_g = co2e_g(
            line.outlook.energy_kwh,
            pue=plan.assumptions.pue,
            intensity_g_per_kwh=plan.assumptions.intensity.g_per_kwh,
        )
    if spent + next_g <= grams_from_kg(budget_kg):
        return ""
    return (
        f"Stopped before {line.cell.name!r}: {kg_from_grams(spent):.3g} kg CO2e of a budget of "
        f"{budget_kg:g} kg are spent, and it would take about {kg_from_grams(next_g):.3g} kg. "
        "Repeat the command with a larger carbon_budget_kg to go on."
    )


def _log_report(run_id: str) -> None:
    """Logs the figures of a study beside the paper's, as artifacts of its run."""
    client = MlflowClient()
    study = read_study(client, client.get_run(run_id))
    findings = findings_of(study)
    figures = study_illustrations(study)
    for figure in figures:
        if figure.svg:
            client.log_text(run_id, figure.svg, f"study/{figure.name}.svg")
    client.log_text(run_id, study_markdown(study, findings, figures), "study/report.md")
    client.log_text(run_id, study_html(study, findings, figures), "study/report.html")
    client.log_text(run_id, to_csv(findings_frame(findings)), "study/findings.csv")


def _done_cells(run_id: str) -> dict[str, StudyCell]:
    """Returns the cells of a study that need not be run again, by name."""
    client = MlflowClient()
    cells = read_study(client, client.get_run(run_id)).cells
    return {cell.name: cell for cell in cells if cell.state == study_tags.DONE}


def _seen_before(done: Mapping[str, StudyCell], plan: Plan) -> list[Seen]:
    """Returns the cost so far of an interrupted study's cells."""
    return [
        _seen_of(cell, plan, Outlook(run.duration_s, run.energy_kwh))
        for cell in plan.cells
        if cell.name in done and (run := done[cell.name].measured) is not None
    ]


def _seen_of(cell: Cell, plan: Plan, taken: Outlook) -> Seen:
    """Returns the cost of a unit of a cell, its warm-up and set-up shared out."""
    assert taken.duration_s is not None  # the cell is done
    energy_kwh = None if taken.energy_kwh is None else taken.energy_kwh / cell.num_units
    return Seen(cell.task, plan.tflop[cell.name], taken.duration_s / cell.num_units, energy_kwh)


def _fill(line: Line, measured: StudyCell, note: str, duration_s: float | None = None) -> None:
    """Writes into a line what its cell has taken; the duration counts if nothing was measured."""
    line.state, line.note = study_tags.DONE, note
    run = measured.measured
    if run is not None and measured.statistics is not None:
        line.outlook = Outlook(run.duration_s, run.energy_kwh)
        line.energy_kwh_per_unit = measured.statistics.mean_kwh
    elif duration_s is not None:
        line.outlook = Outlook(duration_s, None)


def _told(board: Board, run_id: str) -> list[str]:
    """Returns the number of cells by state, and where the figures lie."""
    states = [line.state for line in board.lines]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return [
        f"study   {len(states)} cells: {counts}",
        f"run     {run_id} (mlflow ui shows it; `mlflow-carbon study-report {run_id}` prints it)",
    ]
