"""Quoted text, edit distance and the share of text that is readable, by hand and against direct recursions."""

import random
import string
from functools import cache
from statistics import fmean
from typing import Any

import pytest

from reward_server.lettering import closest_passage, letters, readable_share, wanted_parts


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ('a sign that says "OPEN"', ["OPEN"]),
        ('"OPEN" above "24 h", “Grand Opening” and «entrée»', ["OPEN", "24 h", "Grand Opening", "entrée"]),
        ("a sign „Guten Tag“", ["Guten Tag"]),
        ('a 5" pizza with "SALE" and the dogs\' toys', ["SALE"]),
        ("a poster \"don't 'quote' me\"", ["don't 'quote' me"]),
        ("a sign 'DON'T PANIC' at Bob's", ["DON'T PANIC"]),
        ("a sign ‘DON’T PANIC’", ["DON’T PANIC"]),
        ('two signs, "HO" and "HO"', ["HO", "HO"]),
    ],
)
def test_what_a_prompt_quotes(prompt: str, parts: list[str]) -> None:
    assert wanted_parts({}, prompt) == tuple(parts)


@pytest.mark.parametrize(
    "prompt",
    ["a cat", "the dogs' bowl and the cats' bed", "rock 'n' roll of the '90s", 'a 5" and a 6" pizza', 'an empty ""', ""],
)
def test_a_prompt_without_quoted_text_is_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="quotes no text"):
        wanted_parts({}, prompt)


def test_the_metadata_comes_before_the_prompt() -> None:
    assert wanted_parts({"text": "EXIT"}, 'a "sign"') == ("EXIT",)
    assert wanted_parts({"text": ["EXIT", "here"]}, "a sign") == ("EXIT", "here")


@pytest.mark.parametrize("text", ["", "  ", 7, True, ["EXIT", ""], ["EXIT", 7], {"text": "EXIT"}, "x" * 1001, ["x" * 501] * 2])
def test_metadata_that_holds_no_text_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="text to be read"):
        wanted_parts({"text": text}, 'a "sign"')


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ValueError, match="quotes no text"):
        wanted_parts({"text": []}, 'a "sign"')


def test_what_counts_of_a_text() -> None:
    assert letters(" Don’t\n PANIC – ＯＫ ", case_sensitive=False) == "don'tpanic-ok"
    assert letters("Don’t PANIC", case_sensitive=True) == "Don'tPANIC"
    assert letters("cafe\u0301", case_sensitive=True) == letters("caf\u00e9", case_sensitive=True)


@pytest.mark.parametrize(
    ("parts", "lines", "share"),
    [
        (["OPEN"], ["open"], 1),
        (["OPEN LATE"], ["OPENLATE"], 1),
        (["GRAND OPENING"], ["Grand", "Opening"], 1),
        (["OPEN", "24h"], ["24h", "OPEN"], 1),
        (["OPEN"], [], 0),
        (["OPEN"], ["", " "], 0),
        (["OPEN"], ["CLUB"], 0),
        (["OPEN"], ["0PEN"], 3 / 4),
        (["OPEN"], ["OPENN"], 3 / 4),
        (["OPEN"], ["OPE"], 3 / 4),
        (["kitten"], ["sitting"], 1 - 3 / 6),
        (["OPEN"], ["OPEN", "DAYS"], 4 / (4 + 4 / 4)),  # four letters beside it
        (["OPEN"], ["OPEN", "OPEN"], 4 / (4 + 4 / 4)),
        (["OPEN"], ["OPENDAYS"], 3 / 4 * 4 / (4 + 4 / 4)),  # and no space between
        (["HO", "HO"], ["HO"], 1 / 2),
        (["HO", "HO"], ["HO HO"], 1),
        (["OPEN", "OPEN LATE"], ["OPEN LATE"], 8 / 12),  # the longer part takes the line
        (["OPEN", "OPEN LATE"], ["OPEN LATE", "OPEN"], 1),
        (["OPEN LATE", "A"], ["OPEN LATE"], 8 / 9),  # parts count by their letters
    ],
)
def test_the_readable_share(parts: list[str], lines: list[str], share: float) -> None:
    assert readable_share(parts, lines, case_sensitive=False) == pytest.approx(share)


def test_capitals_count_where_asked() -> None:
    assert readable_share(["OPEN"], ["OPEn"], case_sensitive=True) == 3 / 4
    assert readable_share(["OPEN"], ["open"], case_sensitive=True) == 0


@cache
def levenshtein(a: str, b: str) -> int:
    """The recursion of the definition."""
    if not a or not b:
        return len(a) + len(b)
    return min(levenshtein(a[1:], b[1:]) + (a[0] != b[0]), levenshtein(a[1:], b) + 1, levenshtein(a, b[1:]) + 1)


def test_the_closest_passage_is_the_best_of_all_passages() -> None:
    draw = random.Random(0)
    for _ in range(300):
        wanted, read = ("".join(draw.choices("abc", k=draw.randrange(low, 7))) for low in (1, 0))
        breaks = {0, len(read), *draw.sample(range(len(read) + 1), draw.randrange(len(read) + 1))}
        costs = {
            (start, end): levenshtein(wanted, read[start:end]) + (start not in breaks) + (end not in breaks)
            for start in range(len(read) + 1)
            for end in range(start, len(read) + 1)
            if end > start or start in breaks
        }
        least = min(costs.values())
        longest = max(end - start for (start, end), cost in costs.items() if cost == least)
        edits, start, end = closest_passage(wanted, read, breaks)
        assert (edits, costs[start, end], end - start) == (least, least, longest)


def gibberish(draw: random.Random, number: int) -> str:
    words = []
    while number > 0:
        words.append("".join(draw.choices(string.ascii_lowercase, k=min(number, draw.randint(1, 8)))))
        number -= len(words[-1])
    return " ".join(words)


@pytest.mark.parametrize("wanted", ["OPEN", "GRAND OPENING", "The quick brown fox jumps over"])
def test_covering_a_picture_with_gibberish_does_not_pay(wanted: str) -> None:
    draw = random.Random(0)
    length = len(letters(wanted, case_sensitive=False))
    means = [
        fmean(readable_share([wanted], [gibberish(draw, times * length)], case_sensitive=False) for _ in range(20))
        for times in (1, 10, 50)
    ]
    assert max(means) < 0.25
    assert means[2] < 0.03


def test_text_around_the_wanted_one_costs_ever_more_and_never_pays() -> None:
    draw = random.Random(1)
    for wanted, noise in [("GRAND OPENING", 0), ("GRAND OPENING", 3), ("GRAND OPENING", 6)]:
        near = list(wanted)
        for place in draw.sample(range(len(near)), noise):
            near[place] = "#"
        shares = [
            readable_share([wanted], ["".join(near), gibberish(draw, number)], case_sensitive=False)
            for number in (0, 12, 48, 480)
        ]
        assert shares == sorted(shares, reverse=True)
        assert 0 < shares[-1] < 0.12 < shares[0] <= 1
