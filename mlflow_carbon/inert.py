"""Text that others wrote, made unable to act where it is printed.

Run names, parameters, tags and journals may hold anything: escape sequences of a terminal,
formulas of a spreadsheet, HTML, five megabytes.
"""

import re
import unicodedata

MAX_CELL_CHARS = 60  # of a cell in a table for people
MAX_NAME_CHARS = 120  # of a name inside a sentence
MAX_LINE_CHARS = 2_000
MAX_VALUE_CHARS = 8_000  # of a value for programs: MLflow's own limit for a tag
CUT = "…"

_NAMED_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
# What starts a formula, in full width too. Source: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA_STARTS = tuple("=+-@＝＋－＠")
# An underscore inside a word marks nothing.
_MARKDOWN = re.compile(r"[\\`*\[\]!|~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_BIBTEX = {
    "\\": r"\textbackslash{}",
    "{": r"\textbraceleft{}",
    "}": r"\textbraceright{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{char: rf"\{char}" for char in "%&#_$"},
}


def shown(text: str, *, max_chars: int = MAX_LINE_CHARS) -> str:
    """Returns text on one line: control characters escaped as Python writes them, its end cut."""
    cut = text if len(text) <= max_chars else text[: max_chars - len(CUT)] + CUT
    return "".join(char if _is_harmless(char) else _escaped(char) for char in cut)


def cut_inside(text: str, *, max_chars: int) -> str:
    """Returns text as ``shown`` has it, its middle cut: names of runs differ at their ends."""
    if len(text) <= max_chars:
        return shown(text)
    num_last = (max_chars - len(CUT)) * 2 // 3
    return shown(f"{text[: max_chars - len(CUT) - num_last]}{CUT}{text[-num_last:]}")


def shown_lines(text: str) -> str:
    """Returns text whose line breaks are meant; each line as ``shown`` has it."""
    return "\n".join(shown(line) for line in text.split("\n"))


def csv_cell(text: str) -> str:
    """Returns text that a spreadsheet takes for text: a formula gets an apostrophe before it.

    Numbers stay as they are.
    """
    plain = shown(text, max_chars=MAX_VALUE_CHARS)
    if not plain.lstrip().startswith(_FORMULA_STARTS) or _is_number(plain):
        return plain
    return f"'{plain}"


def json_text(text: str) -> str:
    """Returns JSON with what a terminal might obey written as ``\\uXXXX``: the same values."""
    return "".join(
        char if char == "\n" or _is_harmless(char) else _json_escape(char) for char in text
    )


def markdown(text: str) -> str:
    """Returns text that Markdown and HTML show as it is, on one line."""
    marked = _MARKDOWN.sub(lambda found: f"\\{found[0]}", shown(text))
    return "".join(_HTML.get(char, char) for char in marked)


def bibtex(text: str) -> str:
    """Returns text that BibTeX and LaTeX print as it is, on one line."""
    return "".join(_BIBTEX.get(char, char) for char in shown(text))


def _is_harmless(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"


def _escaped(char: str) -> str:
    return _NAMED_ESCAPES.get(char) or char.encode("unicode_escape").decode("ascii")


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(
        f"\\u{int.from_bytes(units[at : at + 2], 'big'):04x}" for at in range(0, len(units), 2)
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
