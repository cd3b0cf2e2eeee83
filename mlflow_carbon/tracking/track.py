"""``track()``: one line around a block of work puts its energy and CO2e on an MLflow run."""

import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import mlflow
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_RUN_ID

from mlflow_carbon.accounting.cheaper import Change
from mlflow_carbon.contract.assumptions import Defaults
from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.grid.providers import LiveIntensity, ask_provider
from mlflow_carbon.metering.launch import ALONE, Place, find_place
from mlflow_carbon.metering.meter import MeterSettings
from mlflow_carbon.metering.protocol import EnergyMeter
from mlflow_carbon.recording.live_forecast import WARN, CarbonPlan, OnBudget
from mlflow_carbon.reporting.receipt import RunFootprint
from mlflow_carbon.tracking.idle_tracking import IdleTracking
from mlflow_carbon.tracking.launch_run import find_launch_run
from mlflow_carbon.tracking.left_windows import Bodies, LeftWindow
from mlflow_carbon.tracking.patience import FIND_TIMEOUT_S, within
from mlflow_carbon.tracking.process_metering import process_metering
from mlflow_carbon.tracking.run_tracking import RunTracking
from mlflow_carbon.tracking.tracking_options import TrackingOptions

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")


class Tracker:
    """What ``track()`` hands to its block: marks windows of the run that is being measured."""

    def __init__(self, tracking: RunTracking | IdleTracking, unit: str) -> None:
        """Marks nothing yet.

        Args:
            tracking: of the run.
            unit: what the windows of this block count, whatever blocks within it count.
        """
        # The two take their own windows back, so no type tells one from the other here.
        self._tracking: Any = tracking
        self._unit = unit
        self._left: list[LeftWindow] = []  # of loops, one in each thread at most

    @property
    def run_id(self) -> str:
        """The MLflow run that is being measured; empty in a rank that knows no run."""
        return str(self._tracking.run_id)

    @property
    def footprint(self) -> RunFootprint | None:
        """What the run cost, as its receipt says; while it goes on, what it has cost so far.

        ``None`` in a rank that does not measure.
        """
        footprint: RunFootprint | None = self._tracking.footprint
        return footprint

    def could_save(self, change: str, saving_fraction: float) -> None:
        """Names a change that would make such a run cheaper, for its receipt.

        Args:
            change: what to do, in a word or two: ``20 steps``.
            saving_fraction: the share of the run's energy that it saves, 0 to 1.

        Raises:
            InvalidInputError: the share is not from 0 to 1.
        """
        if not 0 <= saving_fraction <= 1:
            raise InvalidInputError(f"saving_fraction is {saving_fraction}; give 0 to 1.")
        self._tracking.offer(Change(change, saving_fraction))

    @contextmanager
    def window(self, num_units: float = 1) -> Iterator[None]:
        """Measures the block as one window that did ``num_units`` units of work.

        A block that ends in an exception has done no unit and is not written.

        Raises:
            InvalidInputError: ``num_units`` is not a number above zero.
            CarbonBudgetError: the block may exceed the run's budget, and ``on_budget`` is ``stop``.
        """
        if not (math.isfinite(num_units) and num_units > 0):
            raise InvalidInputError(f"num_units is {num_units}; give a number above zero.")
        self._tracking.heed_budget()
        window = self._open()
        num_done = 0.0
        try:
            yield
            num_done = num_units
        finally:
            self._tracking.close(window, num_done)
        self._tracking.tell_budget()

    def windows(self, items: Iterable[T], *, units_per_window: int = 1) -> Iterator[T]:
        """Yields the items and measures every ``units_per_window`` of them as one window.

        A window holds the making of its items and what the caller's loop does with them. Items
        that have a length tell how many units the run will do.

        An item counts when the loop has done with it. That at which the loop is left by ``break``
        counts if it took at least half as long as those before; one at which an exception ends
        the block, or of which ``zip`` makes nothing, does not.

        Raises:
            InvalidInputError: ``units_per_window`` is below 1.
            CarbonBudgetError: raised in the loop, instead of an item that may exceed the run's
                budget, where ``on_budget`` is ``stop``.
        """
        if units_per_window < 1:
            raise InvalidInputError(f"units_per_window is {units_per_window}; give 1 or more.")
        num_items = _length(items)
        if num_items:
            self._tracking.expect(num_items, self._unit)
        return self._windowed(iter(items), units_per_window)

    def settle(self, *, is_error: bool) -> None:
        """Writes the windows in which loops were left, now that it is known why.

        Args:
            is_error: whether an exception ended the block, and so the loop's last item.
        """
        while self._left:
            left = self._left.pop()
            is_done = left.is_likely_done and not is_error
            self._tracking.close(left.window, left.num_done + is_done)

    def _windowed(self, items: Iterator[T], units_per_window: int) -> Iterator[T]:
        is_exhausted = False
        bodies = Bodies()
        while not is_exhausted:
            if self._tracking.must_stop and not any(True for _ in items):
                return  # there is no other item
            self._tracking.heed_budget()
            window = self._open()
            num_done = 0
            try:
                for item in islice(items, units_per_window):
                    bodies.begin()
                    yield item
                    bodies.end()
                    num_done += 1
            except GeneratorExit:  # the loop was left
                self._tracking.stop(window)
                self._left.append(LeftWindow(window, num_done, bodies.is_likely_done()))
                raise
            except BaseException:  # the items' own
                self._tracking.close(window, num_done)
                raise
            self._tracking.close(window, num_done)
            self._tracking.tell_budget()
            is_exhausted = num_done < units_per_window

    def _open(self) -> Any:
        self.settle(is_error=False)
        return self._tracking.open(self._unit)


class TrackedBlock(AbstractContextManager[Tracker]):
    """A block of work to be measured; as a decorator, each call of the function is one."""

    def __init__(self, begin: Callable[[], AbstractContextManager[Tracker]]) -> None:
        self._begin = begin
        self._block: AbstractContextManager[Tracker] | None = None

    def __enter__(self) -> Tracker:
        if self._block is not None:
            raise InvalidInputError(
                "This track() has measured its block already. Call track() once for each block, "
                "or mark windows in one."
            )
        self._block = self._begin()
        return self._block.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._block is not None
        return self._block.__exit__(kind, error, traceback)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Returns the function, each call of which is measured."""

        @functools.wraps(function)
        def measured(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._begin():
                return function(*args, **kwargs)

        return measured


def track(
    *,
    unit: str = "iteration",
    region: str | None = None,
    month: str | None = None,
    pue: float | None = None,
    intensity_set: str | None = None,
    carbon_intensity_g_per_kwh: float | None = None,
    defaults: Defaults = Defaults(),  # noqa: B008  # frozen
    settings: MeterSettings = MeterSettings(),  # noqa: B008  # frozen
    intensity_provider: str | None = None,
    total_units: float | None = None,
    carbon_budget_kg: float | None = None,
    on_budget: OnBudget = WARN,
    run_id: str | None = None,
    is_alone: bool = False,
    meter: EnergyMeter | None = None,
    silent: bool | None = None,
) -> TrackedBlock:
    """Measures the block's energy and writes it, with its CO2e, to an MLflow run.

    Args:
        unit: what one unit of a window is: ``iteration``, ``epoch``, ``sample``, ``minute``.
            A block that marks no window is reported per minute.
        region: where the electricity comes from. This and the next four settings, where they are
            ``None``, are those of a block around, else of the environment
            (``MLFLOW_CARBON_REGION`` and so on), else the default's.
        month: ``2022-02``; else the newest year's mean.
        pue: facility energy over IT energy.
        intensity_set: the only set of intensities to look in.
        carbon_intensity_g_per_kwh: your own figure, from your supplier or your own mix, instead of
            a published one; ``region`` then is only its name.
        defaults: the values of settings left open; each use is tagged.
        settings: what is measured, and how a shared node is attributed.
        intensity_provider: who is asked, once and for 3 s at most, for the intensity of the region
            now: ``electricity-maps`` (key in ``ELECTRICITY_MAPS_API_KEY``),
            ``uk-carbon-intensity`` or ``energi-data-service``. Where it does not answer, the
            year's mean stands in, and a tag says why.
        total_units: units that the block will do, for the forecast of its total; ``None`` takes the
            length of what ``windows`` is given, where that has one.
        carbon_budget_kg: CO2e that the run may emit; ``None`` for as much as it takes.
        on_budget: ``warn``; ``stop`` raises ``CarbonBudgetError`` from ``window`` or ``windows``
            before a window that may exceed the budget; or a function, called with each verdict
            of another state.
        run_id: the run to write to; ``None`` takes the active one, or starts one for the block.
        is_alone: whether this is the only process of a launch that comes to the block: its node is
            measured, whichever process it is, and no other node is missed.
        meter: a started meter to use instead of the process's own.
        silent: whether no receipt is printed when the run ends; ``None`` asks
            ``MLFLOW_CARBON_SILENT``.

    Raises:
        MlflowCarbonError: a setting is out of range, or two contradict each other;
            raised before the block starts, never later.
    """

    @contextmanager
    def block() -> Iterator[Tracker]:
        options = TrackingOptions(
            unit=unit,
            region=region,
            month=month,
            pue=pue,
            intensity_set=intensity_set,
            carbon_intensity_g_per_kwh=carbon_intensity_g_per_kwh,
            live=_live_intensity(intensity_provider, region, month or intensity_set, defaults),
            defaults=defaults,
            settings=settings.over_environment(os.environ),
            plan=CarbonPlan(total_units, carbon_budget_kg, on_budget),
            is_silent=silent,
        )
        with _tracked(options, run_id=run_id, is_alone=is_alone, meter=meter) as tracker:
            yield tracker

    return TrackedBlock(block)


@contextmanager
def _tracked(
    options: TrackingOptions, *, run_id: str | None, is_alone: bool, meter: EnergyMeter | None
) -> Iterator[Tracker]:
    """Meters the run that is named, or the active one, or one for the block; see ``track``."""
    options.assumptions()  # a bad setting is told before a run is started
    place = ALONE if is_alone else find_place(os.environ)
    named_run_id = run_id or (MLFLOW_RUN_ID.get() if place.node_index else None)
    if not place.is_leader:  # another rank measures this node
        yield Tracker(IdleTracking(named_run_id or _active_run_id()), options.unit)
        return
    with _run(named_run_id, place) as tracked_run_id:
        tracking = process_metering().track(
            tracked_run_id,
            options,
            meter=meter,
            is_named=named_run_id is not None,
            is_alone=is_alone,
        )
        tracker = Tracker(tracking, options.unit)
        is_error = True
        try:
            yield tracker
            is_error = False
        except GeneratorExit:  # of windows(), whose loop was left
            is_error = False
            raise
        finally:
            tracker.settle(is_error=is_error)
            tracking.leave()


def windows(
    items: Iterable[T], *, unit: str = "iteration", units_per_window: int = 1
) -> Iterator[T]:
    """Yields the items and measures every ``units_per_window`` of them as one window of the run.

    In a run that is metered already they are windows of that run; else the loop is metered as by
    ``track()``.

    Args:
        items: a loader, a range; each item is one unit of work.
        unit: what one item is: ``iteration``, ``epoch``, ``sample``, ``minute``.
        units_per_window: items of one window.

    Raises:
        InvalidInputError: ``unit`` is not one of these, or ``units_per_window`` is below 1.
    """
    with track(unit=unit) as tracker:
        yield from tracker.windows(items, units_per_window=units_per_window)


def _live_intensity(
    provider: str | None, region: str | None, period_or_set: str | None, defaults: Defaults
) -> LiveIntensity | None:
    """Asks a provider for its intensity; returns ``None`` without a provider.

    Raises:
        MlflowCarbonError: the provider cannot be asked for that region or period.
    """
    if provider is None:
        return None
    if region is None or period_or_set is not None:
        raise InvalidInputError(
            f"{provider} tells the intensity of a region now: "
            "give a region, and neither a month nor a set."
        )
    return ask_provider(
        provider, region, environment=os.environ, preferred_set=defaults.intensity_set
    )


def _length(items: Iterable[object]) -> int | None:
    """Returns the number of items; ``None`` where they have no length."""
    try:
        return len(items)  # type: ignore[arg-type]
    except Exception:  # items are the user's, and a data loader without a length may raise anything
        return None


def _active_run_id() -> str:
    """Returns the id of this thread's active run; empty without an active run."""
    active_run = mlflow.active_run()
    return "" if active_run is None else str(active_run.info.run_id)


def _run(run_id: str | None, place: Place) -> AbstractContextManager[str]:
    """Returns a context that gives the run to work in, started for the block if need be.

    A further node of a launch starts no run: it writes to that of the first.
    """
    known_run_id = run_id or _active_run_id()
    if known_run_id or not place.is_first:
        return nullcontext(known_run_id)
    return _new_run(place)


@contextmanager
def _new_run(place: Place) -> Iterator[str]:
    with mlflow.start_run(run_id=_run_before_restart(place)) as run:
        yield run.info.run_id


def _run_before_restart(place: Place) -> str | None:
    """Returns the run of a restarted launch; ``None`` if there is no such run."""
    if place.num_restarts == 0:
        return None
    ordinal = process_metering().num_in_launch
    run = within(
        FIND_TIMEOUT_S,
        lambda: find_launch_run(MlflowClient(), None, place, ordinal),
    )
    return None if run is None else str(run.info.run_id)
