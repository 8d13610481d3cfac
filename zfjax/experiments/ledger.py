"""Results of single folds, kept from one command to the next."""

import hashlib
from collections.abc import Callable
from typing import Any

from etils import epath

from zfjax.console import sealed
from zfjax.console.files import damaged, read_json, write_json
from zfjax.experiments.linear import Fold


def fold_key(fold: Fold, *parts: object) -> str:
    """What a fold's result depends on, as a short hash: the pictures' numbers, and whatever else is given."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode())
    for numbers in fold:
        digest.update(f"\0{len(numbers)}\0".encode() + numbers.astype("<i8").tobytes())
    return digest.hexdigest()[:16]


class Ledger:
    """Results (JSON values) in a file, each under what it depends on."""

    def __init__(self, path: epath.PathLike) -> None:
        """Reads the file where there is one.

        Raises:
            UserError: it is damaged.
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
        """The result kept under `key`; None where there is none, or a damaged one, which is then measured again."""
        entry = self._kept.get(key)
        if type(entry) is float:  # from before results were sealed; these take the longest
            return entry
        try:
            return sealed.unseal(entry)["result"]
        except (KeyError, ValueError):
            return None

    def get_or(self, key: str, measure: Callable[[], Any]) -> Any:
        """The result kept under `key`; where there is none, `measure` is called and what it gives is kept."""
        if self.get(key) is None:
            self.put(key, measure())
        return self.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keeps a result at once; the file is whole at any moment.

        Raises:
            UserError: it cannot be written.
        """
        self._kept = self._read() | {
            key: sealed.seal({"result": value})
        }  # another command may have added some meanwhile
        write_json(self._path, self._kept)
