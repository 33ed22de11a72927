import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from reward_server.remote.retry import backoff, retry_after

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("failures", "draw", "seconds"),
    [
        (1, 0.0, 0.25),
        (1, 1.0, 0.5),
        (1, 0.5, 0.375),
        (2, 1.0, 1.0),
        (3, 1.0, 2.0),
        (4, 0.0, 1.5),
        (5, 1.0, 3.0),
        (10**6, 1.0, 3.0),
    ],
)
def test_backoff_doubles_up_to_the_longest_and_is_drawn_from_its_upper_half(failures: int, draw: float, seconds: float) -> None:
    assert backoff(failures, first=0.5, longest=3.0, draw=draw) == seconds


def test_backoff_that_may_not_grow() -> None:
    assert backoff(7, first=2.0, longest=2.0, draw=1.0) == 2.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0.0),
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("Mon, 04 May 2026 12:00:30 GMT", 30.0),
        ("Monday, 04-May-26 12:00:30 GMT", 30.0),
        ("Mon May  4 12:00:30 2026", 30.0),
        ("Mon, 04 May 2026 11:59:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86400.0),
        ("9" * 400, 86400.0),
        *(
            (text, 0.0)
            for text in ("", "-1", "1.5", "1e3", "inf", "nan", "²", "soon", "\x00", "0x10", "1,2", "32 May 2026", ",")
        ),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float) -> None:
    assert retry_after(header, now=NOW) == seconds


def test_retry_after_reads_the_dates_that_servers_write() -> None:
    assert retry_after(format_datetime(NOW + timedelta(seconds=90), usegmt=True), now=NOW) == 90.0


def test_retry_after_takes_anything() -> None:
    draw = random.Random(0)
    words = [
        "Mon",
        ",",
        "04",
        "May",
        "2026",
        "12",
        ":",
        "60",
        "GMT",
        "-",
        "+9999",
        " ",
        "\t",
        "(",
        ")",
        "é",
        "99999999999",
        "\\",
        '"',
    ]
    for _ in range(5000):
        assert 0.0 <= retry_after("".join(draw.choices(words, k=draw.randrange(1, 12))), now=NOW) <= 86400.0
