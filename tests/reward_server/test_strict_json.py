"""One meaning or none."""

import time

import pytest

from reward_server.strict_json import MAX_DEPTH, parse_json


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b'{"a": [1, -2.5e3, true, null, "x"]}', {"a": [1, -2500.0, True, None, "x"]}),
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (rb'"\ud83d\ude00"', "\N{GRINNING FACE}"),
        ('"grün"'.encode(), "grün"),
        (b"1e-400", 0.0),
    ],
)
def test_json_means_what_it_says(content: bytes, value: object) -> None:
    assert parse_json(content) == value


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b"{} {}", "not JSON"),
        (b"[1,]", "not JSON"),
        (b"NaN", "NaN"),
        (b"[Infinity]", "Infinity"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b"1e999", "1e999 is not a finite number"),
        (b"9223372036854775808", "64 bits"),
        (b"9" * 100_000, "64 bits"),
        (b'{"a": 1, "a": 1}', "'a' is given twice"),
        (b'[{"b": {"c": 1, "d": 2, "c": 3}}]', "'c' is given twice"),
        (rb'"\ud800"', "surrogate"),
        (rb'{"\udfff": 1}', "surrogate"),
        (rb'["\ud83d", "\ude00"]', "surrogate"),
        (b"\xff", "UTF-8"),
        ('"x"'.encode("utf-16"), "UTF-8"),
        (b'\xef\xbb\xbf"x"', "not JSON"),
        (b"[" * 100_000, "nested deeper"),
        (b'{"a":' * 100_000, "nested deeper"),
    ],
)
def test_anything_else_is_refused_and_named(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_json(content)


def test_nesting_has_a_limit() -> None:
    assert parse_json(b"[" * MAX_DEPTH + b"1" + b"]" * MAX_DEPTH)
    with pytest.raises(ValueError, match="nested deeper than 32"):
        parse_json(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))


def test_many_keys_take_no_longer_than_their_number() -> None:
    keys = b",".join(b'"%d":0' % number for number in range(100_000))
    started = time.perf_counter()
    with pytest.raises(ValueError, match="'5' is given twice"):
        parse_json(b"{" + keys + b',"5":1}')
    assert time.perf_counter() - started < 5
