"""Sealed JSON objects: each contains a digest of the rest of it, to detect damage."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DIGEST = "digest"


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """The object with a digest of itself added under `digest`.

    >>> unseal(json.loads(json.dumps(seal({"accuracy": 0.5}))))
    {'accuracy': 0.5}
    """
    return {**value, DIGEST: digest_of(value)}


def unseal(value: Any) -> dict[str, Any]:
    """The sealed object without its digest. An object without a digest is returned unchecked.

    Raises:
        ValueError: it is not an object, or was changed since it was sealed.
    """
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {type(value).__name__}")
    rest = {name: field for name, field in value.items() if name != DIGEST}
    if DIGEST in value and value[DIGEST] != digest_of(rest):
        raise ValueError("its content is not what was written")
    return rest


def digest_of(value: Any) -> str:
    """A digest of a JSON value; writing and reading the value back does not change it."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
