"""Carbontracker's logger, silenced; apart, so that a GPU machine needs no CodeCarbon."""


class SilentLog:
    """Stands for Carbontracker's logger."""

    def info(self, message: str) -> None:
        """Ignores the message."""

    def output(self, message: str, verbose_level: int = 0) -> None:
        """Ignores the message."""

    def err_warn(self, message: str) -> None:
        """Ignores the message."""

    def err_critical(self, message: str) -> None:
        """Ignores the message."""
