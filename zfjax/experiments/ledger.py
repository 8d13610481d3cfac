"""Results of individual folds, saved for later commands."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from etils import epath

from zfjax.console import sealed
from zfjax.console.files import damaged, read_json, write_json
from zfjax.experiments.linear import Fold
from zfjax.runs.first import from_first, on_first


def fold_key(fold: Fold, *parts: object) -> str:
    """A short hash of what a fold's result depends on: the pictures' numbers, and the given parts."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode())
    for numbers in fold:
        digest.update(f"\0{len(numbers)}\0".encode() + numbers.astype("<i8").tobytes())
    return digest.hexdigest()[:16]


class Ledger:
    """A file of results (JSON values), each under a key of what it depends on."""

    def __init__(self, path: epath.PathLike) -> None:
        """Read the file if it exists.

        Raises:
            UserError: the file is damaged.
        """
        self._path = epath.Path(path)
        self._kept = self._read()

    def _read(self) -> dict[str, Any]:
        again = "remove it to measure its folds again"
        kept = read_json(self._path, again) if self._path.exists() else {}
        if not isinstance(kept, dict):
            raise damaged(self._path, f"expected an object, found {type(kept).__name__}", again)
        return kept

    def get(self, key: str) -> Any:
        """The result stored under `key`; None if it is missing or damaged, and so must be measured again."""
        entry = self._kept.get(key)
        if type(entry) is float:  # from before results were sealed; kept, since these take the longest to measure
            return entry
        try:
            return sealed.unseal(entry)["result"]
        except (KeyError, ValueError):
            return None

    def get_or(self, key: str, measure: Callable[[], Any]) -> Any:
        """The result stored under `key`; if there is none, call `measure` and store its result."""
        if self.get(key) is None:
            self.put(key, measure())
        return self.get(key)

    def get_or_first(self, key: str, measure: Callable[[], Any]) -> Any:
        """`get_or` in the first process; the others wait for it and get its result."""
        return json.loads(from_first(lambda: json.dumps(self.get_or(key, measure)).encode()))

    def get_or_all(self, key: str, measure: Callable[[], Any]) -> Any:
        """`get_or` where all processes measure together."""
        found = json.loads(from_first(lambda: json.dumps(self.get(key)).encode()))
        if found is None:
            found = measure()
            on_first(lambda: self.put(key, found))
        return found

    def put(self, key: str, value: Any) -> None:
        """Save a result at once; the file is always complete.

        Raises:
            UserError: the file cannot be written.
        """
        self._kept = self._read() | {
            key: sealed.seal({"result": value})
        }  # another command may have added results in the meantime
        write_json(self._path, self._kept)
