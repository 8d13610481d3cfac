"""How long work shows itself: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any

from tqdm import tqdm


class Progress:
    """A bar with the rate and the time left; plain lines every ten seconds where stderr is no terminal."""

    SECONDS_BETWEEN_LINES = 10.0

    def __init__(self, what: str, total: int, *, initial: int = 0, unit: str = "image", show: bool = True):
        """Starts a bar of `total` units of which `initial` are done."""
        self._what = what
        self._show = show
        self._total, self._done, self._initial = total, initial, initial
        self._unit = unit
        self._started = self._last_line = time.monotonic()
        terminal = show and sys.stderr.isatty()
        self._bar = (
            tqdm(desc=what, total=total, initial=initial, unit=unit, unit_scale=True, delay=2, file=sys.stderr)
            if terminal
            else None
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def rate(self) -> float:
        """Units a second since the start."""
        return (self._done - self._initial) / max(time.monotonic() - self._started, 1e-9)

    def advance(self, count: int, note: str = "") -> None:
        """Tells that `count` more units are done; `note` stands beside the bar."""
        self._done += count
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif self._show and time.monotonic() - self._last_line >= self.SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.say(
                f"{self._what} {self._done:,}/{self._total:,} {self._unit}s, {self.rate:,.0f} a second,"
                f" {(self._total - self._done) / max(self.rate, 1e-9):,.0f} s left{note and ', ' + note}"
            )

    def over(self, batches: Iterable[Sized]) -> Iterator[Any]:
        """The batches, each counted when the next is asked for."""
        for batch in batches:
            yield batch
            self.advance(len(batch))

    def say(self, line: str) -> None:
        """Prints a line without disturbing the bar."""
        if self._show:
            tqdm.write(line, file=sys.stderr)
