"""How long to wait before asking again."""

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_LONGEST = 86400.0
"""Seconds that a Retry-After counts for at most, so that one absurd answer does not end an endpoint for good."""


def backoff(failures: int, *, first: float, longest: float, draw: float) -> float:
    """Seconds to wait after `failures` >= 1 failed attempts: `first`, doubled for each further failure, at most `longest`; of
    that, between half (draw 0) and all (draw 1)."""
    doublings = min(failures - 1, math.ceil(math.log2(longest / first)))
    return min(first * 2.0**doublings, longest) * (0.5 + 0.5 * draw)


def retry_after(header: str | None, *, now: datetime) -> float:
    """Seconds that a Retry-After header asks to wait, written as seconds or as an HTTP date (RFC 9110, 10.2.3).

    0 without a header, for a date that has passed and for what is neither.
    """
    if header is None:
        return 0.0
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _LONGEST)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0.0
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return min(max((date - now).total_seconds(), 0.0), _LONGEST)
