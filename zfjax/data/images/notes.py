"""What is said of pictures that are used in spite of something: once of each kind, naming the first."""

import logging

_log = logging.getLogger(__name__)
_said: set[str] = set()  # the kinds that were told of


def say_once(kind: str, name: str, what: str) -> None:
    """Log a warning about a picture, unless there was one of this kind; `name` may be empty."""
    if kind not in _said:
        _said.add(kind)
        _log.warning("%s: %s; so are others like it", name or "a picture", what)
