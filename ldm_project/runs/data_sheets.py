"""The data sheet of a training: shown before it begins, and kept with its run."""

import sys
from dataclasses import asdict

import mlflow

from ldm_project.ct.data_sheet import DataSheet, sheet_lines, sheet_markdown

SHEET_FILE = "data_sheet.md"
FIGURES_FILE = "data_sheet.json"


def show_sheet(sheet: DataSheet) -> None:
    """Prints the statistics of the data on stderr."""
    for line in sheet_lines(sheet):
        print(line, file=sys.stderr)


def log_sheet(sheet: DataSheet) -> None:
    """Logs the statistics of the data to the active run, for people and for programs."""
    mlflow.log_text(sheet_markdown(sheet), SHEET_FILE)
    mlflow.log_dict(asdict(sheet), FIGURES_FILE)
