"""Lines made of pieces, of which each has shorter words for where a terminal is narrow."""

from collections.abc import Sequence

# A piece's wordings, from the longest to the shortest; an empty one leaves the piece out.
Piece = tuple[str, ...]
_BETWEEN = " · "


def fitted_line(head: str, pieces: Sequence[Piece], *, columns: int | None = None) -> str:
    """Returns pieces on one line, in their shorter wordings where the longest do not fit.

    The wordings shorten by turns, from the left: each piece takes its second before one takes its
    third.

    Args:
        head: what the line begins with, at any width.
        pieces: each with its wordings.
        columns: how many characters fit; ``None`` takes the longest wordings.

    Returns:
        The line; longer than ``columns`` only where the shortest wordings are.
    """
    levels = [0] * len(pieces)
    line = _line(head, pieces, levels)
    if columns is None:
        return line
    for level in range(1, max(map(len, pieces), default=1)):
        for index in range(len(pieces)):
            if len(line) <= columns:
                return line
            levels[index] = min(level, len(pieces[index]) - 1)
            line = _line(head, pieces, levels)
    return line


def _line(head: str, pieces: Sequence[Piece], levels: Sequence[int]) -> str:
    texts = (piece[level] for piece, level in zip(pieces, levels, strict=True))
    return head + _BETWEEN.join(filter(None, texts))
