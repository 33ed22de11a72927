"""Idempotency keys: names of what is asked, made from the pictures as they are, before any of them is encoded."""

import json
from hashlib import blake2b
from typing import Any


def idempotency_key(*told: Any) -> str:
    """64 hex digits that name `told`. Raises TypeError or ValueError for what is not JSON."""
    return blake2b(json.dumps(told, sort_keys=True, allow_nan=False).encode(), digest_size=32).hexdigest()
