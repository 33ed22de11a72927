"""Which letters a prompt asks a picture to show, and how much of them a reading holds.

Spaces and line breaks do not count, neither in what is wanted nor in what was read: they are distances on a picture, and
readers disagree about them. Shapes of quotation marks, dashes and full-width letters (Unicode NFKC) do not count either.
"""

import re
import unicodedata
from collections.abc import Container, Mapping, Sequence
from itertools import accumulate
from typing import Any

MAX_LETTERS = 1000
"""Most letters that are looked for: the search takes wanted times read steps, and no picture holds more legibly."""
SURPLUS_COST = 0.25
"""What a letter too many costs, as a share of a wrong one."""

_QUOTES = re.compile(r'(?<!\w)"([^"]+)"(?!\w)|[“„]([^“”„]+)[”“]|«([^«»]+)»')
"""Double quotes; one after a letter or a digit opens nothing, as it may mean inches."""
_SINGLE_QUOTES = re.compile(r"(?<!\w)'(?=\S)((?:[^']|(?<=\w)'(?=\w)){2,})(?<=\S)'(?!\w)|‘((?:[^‘’]|(?<=\w)’(?=\w)){2,})’(?!\w)")
"""Single quotes around words; between two letters one is an apostrophe, and around one letter too (rock 'n' roll)."""
_TAKEN = ""
"""Stands for a letter that a part was found in: equal to none that is wanted."""
_PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-"})


def wanted_parts(metadata: Mapping[str, Any], prompt: str) -> tuple[str, ...]:
    """The texts that a picture has to show: `metadata["text"]`, a text or a list of them, else what `prompt` quotes.

    Quoted is what stands in "straight", “typographic” or «pointed» quotes; where there is none of these, in 'single' ones.
    Raises ValueError where nothing is quoted, a part holds no letters, or all of them more than MAX_LETTERS.
    """
    given = metadata.get("text")
    if given is None:
        found = _QUOTES.findall(prompt) or _SINGLE_QUOTES.findall(prompt)
        parts = ["".join(groups) for groups in found]
    else:
        parts = given if isinstance(given, list) else [given]
    if not parts:
        raise ValueError(f'{prompt!r} quotes no text to be read; put it in double quotes, or give "text" in the metadata')
    for part in parts:
        if not isinstance(part, str) or not letters(part, case_sensitive=True):
            raise ValueError(f'text to be read is {part!r}; give a text that is not empty, or a list of such, as "text"')
    if (number := sum(len(letters(part, case_sensitive=True)) for part in parts)) > MAX_LETTERS:
        raise ValueError(f"the text to be read has {number} letters; {MAX_LETTERS} are allowed")
    return tuple(parts)


def letters(text: str, *, case_sensitive: bool) -> str:
    """What counts of a text. Example: "Don’t  PANIC" -> "don'tpanic"."""
    plain = unicodedata.normalize("NFKC", text).translate(_PLAIN)
    return "".join((plain if case_sensitive else plain.casefold()).split())


def readable_share(parts: Sequence[str], lines: Sequence[str], *, case_sensitive: bool) -> float:
    """How much of the wanted parts can be read in the lines of a picture, from 0 (nothing) to 1 (all of it and nothing else).

    With W wanted letters, E the edits that turn the closest passages of the reading into the parts (`closest_passage`), each
    passage taken once, the longest part first, and S the letters read outside of these passages:

        share = (1 - E / W) * W / (W + SURPLUS_COST * S)

    Where nothing else is read that is 1 - E / W, one less the normalised edit distance. Text beside the wanted one costs
    little, a page of it nearly everything: the longer gibberish is, the better a passage it holds, but only like a logarithm,
    while the second factor falls like 1 / S.
    """
    wanted = sorted((letters(part, case_sensitive=case_sensitive) for part in parts), key=len, reverse=True)
    words = [letters(word, case_sensitive=case_sensitive) for line in lines for word in line.split()]
    read = list("".join(words))
    breaks = set(accumulate(map(len, words), initial=0))
    edits = 0
    for part in wanted:
        distance, start, end = closest_passage(part, read, breaks)
        edits += distance
        read[start:end] = [_TAKEN] * (end - start)
        breaks |= {start, end}
    total = sum(map(len, wanted))
    surplus = len(read) - read.count(_TAKEN)
    return (1 - edits / total) * total / (total + SURPLUS_COST * surplus)


def closest_passage(wanted: str, read: Sequence[str], breaks: Container[int]) -> tuple[int, int, int]:
    """(edits, start, end) of the passage read[start:end] that fewest edits turn into `wanted`.

    Of equally close passages it is the longest, and of these the first.

    Edits are insertions, deletions and replacements of one letter (Levenshtein), and one more at each end of the passage that
    lies inside a word, that is, not in `breaks`: a space that is not there. Never more than len(wanted), the empty passage.
    The search is Sellers' (J. Algorithms 1, 1980): row i of the table holds, for each end, the fewest edits that turn a passage
    up to there into the first i letters, and the first start of such a passage.
    """
    cut = [int(place not in breaks) for place in range(len(read) + 1)]
    row = [(cut[0], 0)]
    for place in range(1, len(read) + 1):
        row.append(min((cut[place], place), (row[-1][0] + 1, row[-1][1])))
    for number, letter in enumerate(wanted, start=1):
        above, row = row, [(number + cut[0], 0)]
        for place, other in enumerate(read, start=1):
            diagonal, up, left = above[place - 1], above[place], row[place - 1]
            row.append(min((diagonal[0] + (letter != other), diagonal[1]), (up[0] + 1, up[1]), (left[0] + 1, left[1])))
    ends = [(edits + cost, start, end) for end, ((edits, start), cost) in enumerate(zip(row, cut, strict=True))]
    return min([*ends, (len(wanted), 0, 0)], key=lambda found: (found[0], found[1] - found[2]))
