"""JSON objects that show whether they are what was written: each with a digest of the rest of it."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DIGEST = "digest"


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """The same object with a digest of it, under `digest`.

    >>> unseal(json.loads(json.dumps(seal({"accuracy": 0.5}))))
    {'accuracy': 0.5}
    """
    return {**value, DIGEST: digest_of(value)}


def unseal(value: Any) -> dict[str, Any]:
    """What was sealed, without the digest. An object that has none passes as it is.

    Raises:
        ValueError: it is no object, or was changed since.
    """
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, found {type(value).__name__}")
    rest = {name: field for name, field in value.items() if name != DIGEST}
    if DIGEST in value and value[DIGEST] != digest_of(rest):
        raise ValueError("its content is not what was written")
    return rest


def digest_of(value: Any) -> str:
    """A digest of a JSON value: the same for the value as written and as read back."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
