"""Credentials taken out of URIs, before anything is written, logged or printed."""

import re

_USER_INFO = re.compile(r"(?<=://)[^/\s]*@")
_SECRET_IN_QUERY = re.compile(
    r"([?&][^=&\s]*(?:pass|pwd|token|key|secret|credential|sig)[^=&\s]*=)[^&\s'\"]*", re.IGNORECASE
)
_HIDDEN = "***"


def redact(text: str) -> str:
    """Returns the text with ``***`` for the user names, passwords and keys of its URIs."""
    return _SECRET_IN_QUERY.sub(rf"\1{_HIDDEN}", _USER_INFO.sub(f"{_HIDDEN}@", text))


def without_credentials(uri: str) -> str:
    """Returns a URI without its user name, password and query, to tell stores apart by."""
    return _USER_INFO.sub("", uri).split("?")[0]


def reason_of(error: BaseException) -> str:
    """Returns the first line of an error, or its kind where it says nothing, redacted."""
    lines = redact(str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__
