"""JSON as others send it: one meaning or none.

Python's own parser lets NaN, Infinity, repeated keys and lone surrogates through, and takes the last of two equal keys.
"""

import json
import math
from collections import Counter
from typing import Any

MAX_DEPTH = 32
"""Objects and arrays inside one another."""
MAX_INTEGER = 2**63


def parse_json(content: bytes) -> Any:
    """The value that UTF-8 JSON stands for.

    Raises ValueError for bytes that are not UTF-8 or not JSON, NaN and infinities (also as 1e999), integers beyond 64 bits,
    keys given twice, half a surrogate pair, and nesting deeper than MAX_DEPTH.
    """
    try:
        value = json.loads(
            content.decode("utf-8"),
            parse_constant=_no_number,
            parse_float=_finite,
            parse_int=_integer,
            object_pairs_hook=_distinct,
        )
    except UnicodeDecodeError:
        raise ValueError("the JSON is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"this is not JSON ({error.msg} at character {error.pos})") from None
    except RecursionError:
        raise ValueError(f"the JSON is nested deeper than {MAX_DEPTH}") from None
    _require_whole_text(value)
    return value


def _no_number(token: str) -> Any:
    raise ValueError(f"{token} is not JSON; send a finite number")


def _finite(token: str) -> float:
    number = float(token)
    if not math.isfinite(number):
        raise ValueError(f"{token[:40]} is not a finite number")
    return number


def _integer(token: str) -> int:
    if len(token) > 20 or not -MAX_INTEGER <= int(token) < MAX_INTEGER:
        raise ValueError(f"the integer {token[:40]} has more than 64 bits")
    return int(token)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:80]!r} is given twice")
    return found


def _require_whole_text(value: Any) -> None:
    """Raises ValueError for half a surrogate pair in any text, and for nesting deeper than MAX_DEPTH; level by level."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        texts = [each for each in level if isinstance(each, str)]
        texts += [key for each in level if isinstance(each, dict) for key in each]
        try:
            "".join(texts).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("a text holds half a surrogate pair; send whole characters") from None
        containers = [each for each in level if isinstance(each, dict | list)]
        if not containers:
            return
        level = [child for each in containers for child in _children(each)]
    raise ValueError(f"the JSON is nested deeper than {MAX_DEPTH}")


def _children(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value
