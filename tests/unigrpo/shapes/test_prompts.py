"""The prompt set: three splits that share no meaning, in GenEval's format, the same on every machine."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from itertools import combinations
from typing import Any, get_args

import pytest

from reward_server.requirements import validate_metadata
from unigrpo.shapes.prompts import NUMBERS, SEEN_KINDS, Split, shapes_prompts
from unigrpo.shapes.world import COLORS, OPPOSITE, PLURALS, SHAPES
from unigrpo.types import Prompt

SPLITS: tuple[Split, ...] = get_args(Split)
HELD_OUT_SHA256 = "f1f401871e7c4d0fb07c6b5e4537023fc483ead0be058419ce53a241bec52c8b"
"""Of the texts of the held-out prompts, a line each: published results are of these."""


def is_seen(prompt: Prompt) -> bool:
    return prompt.metadata["tag"] in SEEN_KINDS


def _meaning(prompt: Prompt) -> tuple[frozenset[tuple[Any, ...]], object]:
    """What is asked for, in whichever wording: groups, and the relation from the one that sorts first."""
    groups = [(clause["class"], clause["count"], clause.get("color")) for clause in prompt.metadata["include"]]
    relation = next((clause["position"][0] for clause in prompt.metadata["include"] if "position" in clause), None)
    if relation is not None and repr(groups[0]) > repr(groups[1]):
        relation = OPPOSITE[relation]
    return frozenset(groups), relation


def _unseen(split: Split) -> list[Prompt]:
    return [prompt for prompt in shapes_prompts(split) if not is_seen(prompt)]


def test_the_splits_share_no_meaning_but_those_marked_as_seen() -> None:
    for one, other in combinations(SPLITS, 2):
        assert {_meaning(prompt) for prompt in _unseen(one)}.isdisjoint(_meaning(prompt) for prompt in shapes_prompts(other))
    for split in SPLITS:
        assert len({_meaning(prompt) for prompt in shapes_prompts(split)}) == len(shapes_prompts(split))
        assert list(filter(is_seen, shapes_prompts(split))) == list(filter(is_seen, shapes_prompts("train")))


def test_every_split_is_spread_over_the_categories() -> None:
    tags = {split: Counter(prompt.metadata["tag"] for prompt in _unseen(split)) for split in SPLITS}
    assert tags == {
        "train": {"counting": 52, "position": 157, "color_attr": 80, "compositional": 200},
        "tuning": {"counting": 15, "position": 27, "color_attr": 25, "compositional": 33},
        "held_out": {"counting": 45, "position": 80, "color_attr": 75, "compositional": 100},
    }
    shared = Counter(prompt.metadata["tag"] for prompt in shapes_prompts("train") if is_seen(prompt))
    assert shared == {"single_object": 4, "two_object": 6, "colors": 24}


def test_the_held_out_prompts_are_those_that_results_were_told_on() -> None:
    texts = "".join(f"{prompt.text}\n" for prompt in shapes_prompts("held_out"))
    assert hashlib.sha256(texts.encode()).hexdigest() == HELD_OUT_SHA256


@pytest.mark.parametrize("split", SPLITS)
def test_prompts_are_distinct_numbered_and_fit_for_the_judge(split: Split) -> None:
    prompts = shapes_prompts(split)
    assert [prompt.index for prompt in prompts] == list(range(len(prompts)))
    assert len({prompt.text for prompt in prompts}) == len(prompts)
    for prompt in prompts:
        validate_metadata(prompt.metadata, labels=SHAPES, colors=COLORS)
        assert prompt.metadata["prompt"] == prompt.text


@pytest.mark.parametrize("split", SPLITS)
def test_the_text_says_what_the_metadata_asks(split: Split) -> None:
    counts = {word: count for count, word in NUMBERS.items()}
    singular = {plural: shape for shape, plural in PLURALS.items()} | {shape: shape for shape in SHAPES}
    for prompt in shapes_prompts(split):
        relation = next((name for name in OPPOSITE if f" {name} " in prompt.text), None)
        phrases = prompt.text.split(f" {relation} " if relation else " and ")
        clauses = []
        for number, *color, noun in map(str.split, phrases):
            assert (noun in SHAPES) == (number == "a")
            clauses.append({"class": singular[noun], "count": counts[number]} | ({"color": color[0]} if color else {}))
        if relation:
            clauses = [clauses[1], clauses[0] | {"position": [relation, 0]}]
        assert prompt.metadata["include"] == clauses


def test_the_list_is_the_same_in_every_process() -> None:
    code = "\n".join(
        [
            "import hashlib, json",
            "from unigrpo.shapes.prompts import shapes_prompts",
            "splits = ('train', 'tuning', 'held_out')",
            "text = json.dumps([[dict(prompt.metadata) for prompt in shapes_prompts(split)] for split in splits])",
            "print(hashlib.sha256(text.encode()).hexdigest())",
        ]
    )
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    text = json.dumps([[dict(prompt.metadata) for prompt in shapes_prompts(split)] for split in SPLITS])
    assert hashlib.sha256(text.encode()).hexdigest() == other
