"""Warnings about pictures that are used despite a defect: one per kind, naming the first picture."""

import logging

_log = logging.getLogger(__name__)
_said: dict[str, tuple[str, str]] = {}  # the kinds already reported


def say_once(kind: str, name: str, what: str) -> None:
    """Log a warning about a picture, unless one of this kind was logged already; `name` may be empty."""
    if kind not in _said:
        _said[kind] = name, what
        _log.warning("%s: %s; so are others like it", name or "a picture", what)


def all_said() -> dict[str, tuple[str, str]]:
    """The name and defect of each kind that was logged, for another process to say."""
    return dict(_said)
