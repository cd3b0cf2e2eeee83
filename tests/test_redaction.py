"""No credential of a URI is written, logged or printed."""

import pytest

from mlflow_carbon.redaction import reason_of, redact, without_credentials


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see https://me:secret@host/x now", "see https://***@host/x now"),
        ("postgresql+psycopg2://me:p@ss@host/db", "postgresql+psycopg2://***@host/db"),
        ("https://host/x?user=me&api_key=secret&n=3", "https://host/x?user=me&api_key=***&n=3"),
        ("'https://host/x?PASSWORD=secret' failed", "'https://host/x?PASSWORD=***' failed"),
        ("https://token@host", "https://***@host"),
        ("mail a@b.c about sqlite:////tmp/a@b/x.db", "mail a@b.c about sqlite:////tmp/a@b/x.db"),
    ],
)
def test_redact_hides_credentials_and_nothing_else(text, expected):
    assert redact(text) == expected


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://u:p@host/path?token=t", "http://host/path"),
        ("postgresql://u:p@host:5432/db", "postgresql://host:5432/db"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
        ("sqlite:////tmp/a@b/mlflow.db", "sqlite:////tmp/a@b/mlflow.db"),
    ],
)
def test_credentials_leave_a_uri_and_nothing_else_does(uri, expected):
    assert without_credentials(uri) == expected


def test_reason_is_the_first_line_of_an_error_without_credentials():
    error = ValueError("\nno route to https://me:secret@host\nTraceback ...")
    assert reason_of(error) == "no route to https://***@host"


def test_reason_of_a_silent_error_is_its_kind():
    assert reason_of(TimeoutError()) == "TimeoutError"
