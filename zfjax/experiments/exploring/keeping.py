"""Results that are kept while there is room for them, each computed once however many ask for it at the same time."""

import concurrent.futures
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from zfjax.data.images.bounds import give_back

Result = TypeVar("Result")
_MUCH = 128_000_000  # bytes: once so much was dropped, it is worth the tenth of a second to give it back


class Cache(Generic[Result]):
    """The results that were asked for last, up to a number of bytes; at least one."""

    def __init__(self, room: int, size: Callable[[Result], int]):
        """Keep up to `room` bytes; `size` tells how many a result takes."""
        self._room, self._size = room, size
        self._taken = self._dropped = 0
        self._lock = threading.Lock()
        self._found: OrderedDict[Hashable, Result] = OrderedDict()
        self._at_work: dict[Hashable, concurrent.futures.Future[Result]] = {}

    def get(self, key: Hashable) -> Result | None:
        """What is kept under a key."""
        with self._lock:
            if key not in self._found:
                return None
            self._found.move_to_end(key)
            return self._found[key]

    def put(self, key: Hashable, result: Result) -> None:
        """Keep a result, instead of those that were not asked for the longest."""
        with self._lock:
            if key in self._found:
                self._taken -= self._size(self._found[key])
            self._taken += self._size(result)
            self._found[key] = result
            self._found.move_to_end(key)
            while self._taken > self._room and len(self._found) > 1:
                oldest = self._size(self._found.popitem(last=False)[1])
                self._taken -= oldest
                self._dropped += oldest
            gives_back = self._dropped > _MUCH
            if gives_back:
                self._dropped = 0
        if gives_back:
            give_back()

    def or_made(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """What is kept under a key, else what `make` returns or raises; others who ask meanwhile wait for it."""
        if (found := self.get(key)) is not None:
            return found
        with self._lock:
            waits = self._at_work.get(key)
            if waits is None:
                mine = self._at_work[key] = concurrent.futures.Future[Result]()
        if waits is not None:
            return waits.result()
        try:
            result = make()
            self.put(key, result)
            mine.set_result(result)
            return result
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._at_work[key]
