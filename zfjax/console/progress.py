"""Progress of long work: one bar on a terminal, plain lines elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tqdm import tqdm


class Progress:
    """A bar with the rate and the time left, or plain lines every ten seconds if stderr is not a terminal.

    Only one bar is shown at a time. It appears after a second and is redrawn twice a second, so that its clock keeps
    running while something compiles. Of several open bars, it is the outermost with a known total, with the innermost's
    name and percentage beside it; if no total is known, it is the innermost.
    """

    SECONDS_BETWEEN_LINES = 10.0
    SECONDS_BEFORE_BAR = 1.0

    def __init__(
        self, what: str, total: int | None = None, *, initial: int = 0, unit: str = "image", show: bool = True
    ):
        """Track `total` units of work, `initial` of them already done; if `total` is None, only a clock is shown."""
        self._what = what
        self._show = show
        self._total, self._done, self._initial = total, initial, initial
        self._unit = unit
        self._note = ""
        self._started = self._last_line = time.monotonic()
        self._counted_from = (initial, self._started)  # units done, and when
        self._terminal = show and sys.stderr.isatty()
        self._bar: tqdm | None = None

    def __enter__(self) -> "Progress":
        if self._terminal:
            _SCREEN.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal:
            _SCREEN.leave(self)

    @property
    def endless(self) -> bool:
        """Whether the total is unknown."""
        return self._total is None

    def advance(self, count: int, note: str = "") -> None:
        """Record that `count` more units are done, at most all; `note` is shown beside the bar."""
        if self._total is not None:
            count = min(count, self._total - self._done)  # the last batch may be padded
        self._note = note
        if self._terminal:
            with _SCREEN.lock:
                self._done += count
                if self._bar is not None:
                    self._bar.update(count)
            return
        self._done += count
        now = time.monotonic()
        if self._show and self._total and now - self._last_line >= self.SECONDS_BETWEEN_LINES:
            self._last_line = now
            speed = self._speed(now)
            known = [f"{self._what} {self._done:,}/{self._total:,} {self._unit}s", speed, note]
            self.say(", ".join(part for part in known if part))
        if count and self._counted_from[1] == self._started:
            self._counted_from = (self._done, now)  # the first piece includes compilation

    def _speed(self, now: float) -> str:
        """The rate and the time left; nothing during the first piece, most of which may be compilation."""
        units, then = self._counted_from
        if then == self._started or self._done == units or not self._total:
            return ""
        each = max(now - then, 1e-9) / (self._done - units)
        rate = f"{1 / each:,.{0 if each <= 0.1 else 1}f} a second" if each < 1 else f"{each:,.1f} s each"
        return f"{rate}, {(self._total - self._done) * each:,.0f} s left"

    def over(self, batches: Iterable[Any], count: Callable[[Any], int] = len) -> Iterator[Any]:
        """Yield the batches, counting each when the next is requested; `count` returns a batch's number of units."""
        for batch in batches:
            yield batch
            self.advance(count(batch))

    def say(self, line: str) -> None:
        """Print a line without disturbing the bar."""
        if self._show:
            with _SCREEN.lock:
                tqdm.write(line, file=sys.stderr)

    def draw(self, inside: "Progress | None") -> None:
        """Draw or redraw the bar; `inside` is the work that this one is waiting for."""
        elapsed = time.monotonic() - self._started
        if elapsed < self.SECONDS_BEFORE_BAR:
            return
        if self._bar is None:
            self._bar = tqdm(
                desc=self._what,
                total=self._total,
                initial=self._initial,
                unit=self._unit,
                unit_scale=True,
                bar_format="{desc} … {elapsed}" if self.endless else None,
                leave=not self.endless,
                dynamic_ncols=True,
                delay=1e-9,  # so that it is not drawn before the values below are set
                file=sys.stderr,
            )
            self._bar.start_t = time.time() - elapsed
            self._bar.n = self._bar.last_print_n = self._done
        notes = [self._note, inside._said() if inside else ""]
        self._bar.set_postfix_str(", ".join(note for note in notes if note), refresh=False)
        self._bar.refresh()

    def hide(self) -> None:
        """Close the bar: it stays on the screen if its total is known, else it is erased."""
        if self._bar is not None:
            self._bar.set_postfix_str(self._note, refresh=False)
            self._bar.last_print_t = self._bar.start_t + 1  # tqdm erases only what it believes it has drawn
            self._bar.close()
            self._bar = None

    def _said(self) -> str:
        return f"{self._what} {self._done / self._total:.0%}" if self._total else self._what


class _Screen:
    """The terminal, which shows one of the open bars."""

    SECONDS_BETWEEN_DRAWS = 0.5

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._open: list[Progress] = []  # outermost first
        self._closed = threading.Event()

    def enter(self, progress: Progress) -> None:
        with self.lock:
            before = self._drawn()
            self._open.append(progress)
            if before is None:
                self._closed = threading.Event()
                threading.Thread(target=self._draw_on, args=(self._closed,), daemon=True).start()
            elif before is not self._drawn():
                before.hide()

    def leave(self, progress: Progress) -> None:
        with self.lock:
            progress.hide()
            self._open.remove(progress)
            if not self._open:
                self._closed.set()

    def _drawn(self) -> Progress | None:
        known = (progress for progress in self._open if not progress.endless)
        return next(known, self._open[-1] if self._open else None)

    def _draw_on(self, closed: threading.Event) -> None:
        while not closed.wait(self.SECONDS_BETWEEN_DRAWS):
            with self.lock:
                drawn = self._drawn()
                if drawn is not None and not closed.is_set():
                    drawn.draw(self._open[-1] if drawn is not self._open[-1] else None)


_SCREEN = _Screen()
