"""Work that waits for the start of least CO2e, and what its run keeps of that."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from mlflow import MlflowClient

from mlflow_carbon.accounting.emissions import co2e_g
from mlflow_carbon.accounting.start_plan import StartPlan, plan_start
from mlflow_carbon.contract import wait_tags
from mlflow_carbon.errors import MlflowCarbonError
from mlflow_carbon.grid.hourly import time_text
from mlflow_carbon.grid.wait_settings import WaitSettings
from mlflow_carbon.inert import shown
from mlflow_carbon.store.run_records import read_record
from mlflow_carbon.tracking.kept_starts import KeptStart
from mlflow_carbon.units import MILLISECONDS_PER_SECOND, SECONDS_PER_HOUR, SECONDS_PER_MINUTE

LONGEST_SLEEP_S = 30.0  # the clock may be set, and the machine may have slept


class WaitingClock(Protocol):
    """The time of day, and a way to wait."""

    def unix_s(self) -> float:
        """Returns the time of day in s since 1970."""
        ...

    def sleep(self, seconds: float) -> None:
        """Lets time pass."""
        ...


class DayClock:
    """The clock of this machine."""

    def unix_s(self) -> float:
        """Returns the time of day in s since 1970."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Lets time pass."""
        time.sleep(seconds)


def digest_of(*parts: object) -> str:
    """Returns a digest that is equal for equal work only; any value that has a text will do."""
    text = json.dumps(parts, default=str, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def wait_for_start(
    settings: WaitSettings,
    *,
    command: str,
    last_duration_s: Callable[[], float | None],
    say: Callable[[str], None],
    clock: WaitingClock,
    environment: Mapping[str, str] = os.environ,
    folder: Path | None = None,
    base_url: str | None = None,
) -> StartPlan:
    """Waits for the start of least CO2e before the deadline; returns the start that was kept.

    A start that the same command has chosen before and not reached is kept; where it has passed
    unused, another one is chosen before the same deadline.

    Args:
        settings: deadline and intensities.
        command: digest of the work.
        last_duration_s: returns what the work took the last time, in s, if that is known.
        say: prints a sentence.
        clock: tells the time.
        environment: holds the key of a provider that needs one.
        folder: of chosen starts; ``None`` for the usual one.
        base_url: of the provider's interface; ``None`` for the public one.

    Raises:
        InvalidInputError: a setting is wrong, or the deadline has passed.
        KeyboardInterrupt: the user ended the wait; nothing has been started.
    """
    kept = KeptStart(digest_of(command, settings), folder)
    now_s = clock.unix_s()
    before = kept.read(now_s=now_s)
    is_new = before is None or before.start_s <= now_s
    if before is not None and not is_new:
        plan = before
    else:
        series, unknown = settings.intensities(
            now_s=now_s, environment=environment, base_url=base_url
        )
        duration_s = settings.duration_s
        if duration_s is None and series is not None:
            duration_s = last_duration_s()
        plan = plan_start(
            series,
            now_s=now_s,
            deadline_s=settings.deadline_s(now_s) if before is None else before.deadline_s,
            duration_s=duration_s,
            unknown=unknown,
        )
    if plan.reason:
        say(f"starts at once: {plan.reason}.")
        kept.remove()
        return plan
    say(told(plan, now_s=now_s, is_new=is_new))
    if is_new and not kept.write(plan):
        say(f"{kept.path} cannot be written: after a restart the start is chosen anew.")
    try:
        wait_until(plan.start_s, clock)
    except KeyboardInterrupt:
        say("stopped waiting; nothing was started. The same command goes on waiting.")
        raise
    kept.remove()
    return plan


def wait_until(start_s: float, clock: WaitingClock) -> None:
    """Lets time pass until a time in s since 1970."""
    while (left_s := start_s - clock.unix_s()) > 0:
        clock.sleep(min(left_s, LONGEST_SLEEP_S))


def told(plan: StartPlan, *, now_s: float, is_new: bool = True) -> str:
    """Returns a sentence on the reason for the wait and its saving."""
    assert plan.saving_fraction is not None  # it waits, so both starts are known
    again = "waits" if is_new else "goes on waiting"
    assumed = "" if plan.is_duration_known else ", assumed; give duration"
    return shown(
        f"{again} until {time_text(plan.start_s)} ({_length(plan.start_s - now_s)} from now): "
        f"{plan.g_per_kwh:.4g} g/kWh instead of {plan.g_per_kwh_now:.4g} at once saves "
        f"{plan.saving_fraction:.0%} of the CO2e, by {plan.source}, for work of "
        f"{_length(plan.duration_s)}{assumed}. Ctrl-C ends the wait."
    )


def tags_of(plan: StartPlan, command: str) -> dict[str, str]:
    """Returns the tags of a run that began by a plan."""
    figures = {
        wait_tags.TAG_G_PER_KWH: plan.g_per_kwh,
        wait_tags.TAG_G_PER_KWH_NOW: plan.g_per_kwh_now,
        wait_tags.TAG_SAVING_FRACTION: plan.saving_fraction,
    }
    tags = {key: f"{value:.6g}" for key, value in figures.items() if value is not None}
    tags |= {
        wait_tags.TAG_COMMAND: command,
        wait_tags.TAG_START: time_text(plan.start_s),
        wait_tags.TAG_DEADLINE: time_text(plan.deadline_s),
    }
    texts = {wait_tags.TAG_SOURCE: plan.source, wait_tags.TAG_REASON: plan.reason}
    return tags | {key: shown(text) for key, text in texts.items() if text}


def note_saving(client: MlflowClient, run_id: str, plan: StartPlan) -> None:
    """Tags a run that has ended with the CO2e in g that its wait saved, where it was metered."""
    if plan.g_per_kwh is None or plan.g_per_kwh_now is None or plan.reason:
        return
    try:
        run = client.get_run(run_id)
        record = read_record(client, run, has_components=False).or_lower_bound()
    except MlflowCarbonError:  # a run with a broken figure: nothing is known of its energy
        return
    if record.total is None or record.total.energy_kwh is None or record.pue is None:
        return
    at_once_g, then_g = (
        co2e_g(record.total.energy_kwh, pue=record.pue, intensity_g_per_kwh=intensity)
        for intensity in (plan.g_per_kwh_now, plan.g_per_kwh)
    )
    client.set_tag(run_id, wait_tags.TAG_SAVED_G, f"{at_once_g - then_g:.6g}")


def last_duration_s(client: MlflowClient, experiment_id: str, command: str) -> float | None:
    """Returns the duration of the newest finished run of the same work, in s, if there is one."""
    runs = client.search_runs(
        [experiment_id],
        f"tags.`{wait_tags.TAG_COMMAND}` = '{command}' AND attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    if not runs or runs[0].info.end_time is None:
        return None
    taken_ms: float = runs[0].info.end_time - runs[0].info.start_time
    return taken_ms / MILLISECONDS_PER_SECOND or None


def _length(duration_s: float) -> str:
    """Returns a length of time for people: 40 s, 25 min, 8.5 h."""
    if duration_s < 2 * SECONDS_PER_MINUTE:
        return f"{duration_s:.0f} s"
    if duration_s < 2 * SECONDS_PER_HOUR:
        return f"{duration_s / SECONDS_PER_MINUTE:.0f} min"
    return f"{duration_s / SECONDS_PER_HOUR:.1f} h"
