"""The prompt set: two halves that share no meaning, in GenEval's format, the same on every machine."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from typing import Any, Literal

import pytest

from reward_server.requirements import validate_metadata
from unigrpo.shapes.prompts import NUMBERS, SEEN_KINDS, shapes_prompts
from unigrpo.shapes.world import COLORS, OPPOSITE, PLURALS, SHAPES
from unigrpo.types import Prompt

HALVES: tuple[Literal["train", "held_out"], ...] = ("train", "held_out")


def is_seen(prompt: Prompt) -> bool:
    return prompt.metadata["tag"] in SEEN_KINDS


def _meaning(prompt: Prompt) -> tuple[frozenset[tuple[Any, ...]], object]:
    """What is asked for, in whichever wording: groups, and the relation from the one that sorts first."""
    groups = [(clause["class"], clause["count"], clause.get("color")) for clause in prompt.metadata["include"]]
    relation = next((clause["position"][0] for clause in prompt.metadata["include"] if "position" in clause), None)
    if relation is not None and repr(groups[0]) > repr(groups[1]):
        relation = OPPOSITE[relation]
    return frozenset(groups), relation


def test_the_halves_share_no_meaning_but_those_marked_as_seen() -> None:
    train, held_out = (shapes_prompts(half) for half in HALVES)
    unseen = {_meaning(prompt) for prompt in held_out if not is_seen(prompt)}
    assert unseen.isdisjoint(_meaning(prompt) for prompt in train)
    assert [prompt for prompt in held_out if is_seen(prompt)] == [prompt for prompt in train if is_seen(prompt)]
    assert len(unseen) == sum(not is_seen(prompt) for prompt in held_out) == 300


def test_unseen_prompts_are_spread_over_four_categories() -> None:
    tags = Counter(prompt.metadata["tag"] for prompt in shapes_prompts("held_out") if not is_seen(prompt))
    assert tags == {"counting": 45, "position": 80, "color_attr": 75, "compositional": 100}
    shared = Counter(prompt.metadata["tag"] for prompt in shapes_prompts("train") if is_seen(prompt))
    assert shared == {"single_object": 4, "two_object": 6, "colors": 24}


@pytest.mark.parametrize("half", HALVES)
def test_prompts_are_distinct_numbered_and_fit_for_the_judge(half: Literal["train", "held_out"]) -> None:
    prompts = shapes_prompts(half)
    assert [prompt.index for prompt in prompts] == list(range(len(prompts)))
    assert len({prompt.text for prompt in prompts}) == len(prompts)
    for prompt in prompts:
        validate_metadata(prompt.metadata, labels=SHAPES, colors=COLORS)
        assert prompt.metadata["prompt"] == prompt.text


@pytest.mark.parametrize("half", HALVES)
def test_the_text_says_what_the_metadata_asks(half: Literal["train", "held_out"]) -> None:
    counts = {word: count for count, word in NUMBERS.items()}
    singular = {plural: shape for shape, plural in PLURALS.items()} | {shape: shape for shape in SHAPES}
    for prompt in shapes_prompts(half):
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
            "text = json.dumps([[dict(p.metadata) for p in shapes_prompts(half)] for half in ('train', 'held_out')])",
            "print(hashlib.sha256(text.encode()).hexdigest())",
        ]
    )
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    text = json.dumps([[dict(prompt.metadata) for prompt in shapes_prompts(half)] for half in HALVES])
    assert hashlib.sha256(text.encode()).hexdigest() == other
