"""What the commands share: options, and how their values are read."""

from collections.abc import Sequence

import click

from mlflow_carbon.units import unix_s_from_iso8601

AUTO = "auto"
NONE = "none"


def given_text(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    """Returns an option's text; ``auto`` is ``None``, because MLproject passes every parameter."""
    return None if text == AUTO else text


def given_number(context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    """Returns an option's number; ``auto`` is ``None``."""
    return None if text in (None, AUTO) else float(click.FLOAT(text, option, context))


def given_time(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    """Returns an option's time in s since 1970; UTC where it names no offset."""
    if text is None:
        return None
    try:
        return unix_s_from_iso8601(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no time; give it as 2022-02-01T13:00.") from error


def split_items(_: click.Context, __: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    """Returns the items of a repeatable, comma-separated option."""
    items = (item.strip() for value in values for item in value.split(","))
    return tuple(dict.fromkeys(item for item in items if item and item not in (AUTO, NONE)))


def example(command: str) -> str:
    """Returns the end of a help text: a command to copy, on a line of its own."""
    return f"\b\nExample:\n  {command}"


all_experiments_option = click.option(
    "--all-experiments", is_flag=True, help="Reads every experiment that you may read."
)
experiment_option = click.option(
    "--experiment",
    multiple=True,
    help="Experiment to read; repeatable. Default: MLFLOW_EXPERIMENT_NAME, else Default.",
)
filter_option = click.option(
    "--filter",
    "filter_string",
    default="",
    help="Only runs that fit, in MLflow's syntax: \"params.sampler = 'ddim'\".",
)
tracking_uri_option = click.option(
    "--tracking-uri", help="Tracking store. Default: MLflow's own, see MLFLOW_TRACKING_URI."
)
equivalents_option = click.option(
    "--equivalents",
    is_flag=True,
    help="Adds km driven, phones charged and the like, also of less than one phone charge.",
)
lineage_option = click.option(
    "--lineage", is_flag=True, help="Counts what the model was built from, too."
)


class WholeSentences(click.Group):
    """Lists its commands by their first sentences, none cut."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands with their first sentences whole, wrapped where they are long."""
        named = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, it.get_short_help_str(limit=1_000))
            for name, it in named
            if it is not None and not it.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
