"""The exam benchmark keeps its own rules, and every rule finds the fault that is planted for it."""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from cluster.prompts import load_prompts
from configs.schema import ExamPrompts
from configs.verifiers import ExamReward, GenevalReward
from reward_server.benchmarks import EXAM
from reward_server.lettering import wanted_parts

Entry = dict[str, Any]

CATEGORIES = {
    "counts": 19,
    "relations": 19,
    "attributes": 19,
    "text": 19,
    "style": 19,
    "negation": 19,
    "world_knowledge": 18,
    "long_prompts": 18,
}
QUESTION = re.compile(r"(Is|Are|Does|Do|Has|Have|Can) .*[^ ?]\?")
QUOTED = re.compile(r'"([^"]*)"')
ABSENCE = re.compile(r"\b(free of|without|missing|bare)\b")
GENEVAL_PROMPTS = Path(__file__).parents[3] / "shared" / "golden" / "geneval" / "evaluation_metadata.jsonl"
RUN = 6
"""Words in a row that two prompts must not share."""

ENTRIES: list[Entry] = [json.loads(line) for line in EXAM.read_text(encoding="utf-8").splitlines()]


def runs(text: str) -> set[tuple[str, ...]]:
    """Every run of RUN words; of a shorter text, all of it."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(words[start : start + RUN]) for start in range(max(1, len(words) - RUN + 1))}


def malformed(entries: Sequence[Entry]) -> list[object]:
    keys = {"prompt", "tag", "exam_points"}
    texts = [text for entry in entries for text in (entry["prompt"], *entry["exam_points"])]
    unclean = [text for text in texts if not text.isascii() or text != " ".join(text.split()) or text.count('"') % 2]
    return [*unclean, *(entry["prompt"] for entry in entries if entry.keys() != keys)]


def miscounted(entries: Sequence[Entry]) -> list[object]:
    found: list[object] = [entry["prompt"] for entry in entries if not 3 <= len(entry["exam_points"]) <= 8]
    tags = Counter(entry["tag"] for entry in entries)
    return found + [tag for tag in tags.keys() | CATEGORIES.keys() if tags[tag] != CATEGORIES.get(tag)]


def repeated(entries: Sequence[Entry]) -> list[object]:
    """Points that stand twice under one prompt, and runs of words that two prompts share."""
    twice = [
        point for entry in entries for point, number in Counter(map(str.lower, entry["exam_points"])).items() if number > 1
    ]
    shared = Counter(run for entry in entries for run in runs(entry["prompt"]))
    return [*twice, *(run for run, number in shared.items() if number > 1)]


def not_questions(entries: Sequence[Entry]) -> list[object]:
    return [point for entry in entries for point in entry["exam_points"] if not QUESTION.fullmatch(point)]


def unasked_quotes(entries: Sequence[Entry]) -> list[object]:
    """Quoted texts that no point asks for, those of points that the prompt does not quote, and text prompts without any."""
    found: list[object] = []
    for entry in entries:
        wanted, asked = set(QUOTED.findall(entry["prompt"])), set(QUOTED.findall(" ".join(entry["exam_points"])))
        found += sorted(wanted ^ asked)
        if entry["tag"] == "text" and not wanted:
            found.append(entry["prompt"])
    return found


def wrong_length(entries: Sequence[Entry]) -> list[object]:
    """Long prompts have 60 to 120 words and 6 to 8 points, all others fewer than 40 words."""
    found: list[object] = []
    for entry in entries:
        words = len(entry["prompt"].split())
        long = 60 <= words <= 120 and len(entry["exam_points"]) >= 6
        if not (long if entry["tag"] == "long_prompts" else words < 40):
            found.append(entry["prompt"])
    return found


def nothing_absent(entries: Sequence[Entry]) -> list[object]:
    negations = [entry for entry in entries if entry["tag"] == "negation"]
    return [entry["prompt"] for entry in negations if not ABSENCE.search(" ".join(entry["exam_points"]))]


CHECKS = [malformed, miscounted, repeated, not_questions, unasked_quotes, wrong_length, nothing_absent]


@pytest.mark.parametrize("check", CHECKS)
def test_the_benchmark_keeps_the_rule(check: Callable[[Sequence[Entry]], list[object]]) -> None:
    assert len(ENTRIES) == 150
    assert check(ENTRIES) == []


def at(tag: str) -> int:
    """Where the first entry of a category stands."""
    return next(place for place, entry in enumerate(ENTRIES) if entry["tag"] == tag)


@pytest.mark.parametrize(
    ("check", "tag", "fault"),
    [
        (malformed, "style", {"prompt": "A café at noon"}),
        (malformed, "style", {"prompt": "A cafe  at noon"}),
        (malformed, "text", {"prompt": 'A sign reads "NO'}),
        (malformed, "style", {"note": "a key of no use"}),
        (miscounted, "style", {"exam_points": ["Is it dark?", "Is it wet?"]}),
        (miscounted, "style", {"exam_points": [f"Are there {number} owls?" for number in range(9)]}),
        (miscounted, "style", {"tag": "counts"}),
        (repeated, "style", {"exam_points": ["Is it dark?", "is it dark?", "Is it wet?"]}),
        (repeated, "style", {"prompt": "So, " + ENTRIES[0]["prompt"].lower()}),
        (not_questions, "style", {"exam_points": ["Is it dark?", "Is it wet", "Is it cold?"]}),
        (not_questions, "style", {"exam_points": ["Is it dark?", "What is wet?", "Is it cold?"]}),
        (unasked_quotes, "text", {"prompt": 'A sign says "GO AWAY"'}),
        (unasked_quotes, "text", {"prompt": "A sign", "exam_points": ["Is it dark?", "Is it wet?", "Is it cold?"]}),
        (unasked_quotes, "style", {"exam_points": ['Does it read "GO AWAY"?', "Is it wet?", "Is it cold?"]}),
        (wrong_length, "long_prompts", {"prompt": "An owl"}),
        (wrong_length, "long_prompts", {"prompt": "An owl " * 61}),
        (wrong_length, "long_prompts", {"exam_points": ["Is it dark?"] * 5}),
        (wrong_length, "style", {"prompt": "An owl " * 20}),
        (nothing_absent, "negation", {"exam_points": ["Is it dark?", "Is it wet?", "Is it cold?"]}),
    ],
)
def test_a_planted_fault_is_found(check: Callable[[Sequence[Entry]], list[object]], tag: str, fault: Entry) -> None:
    entries = deepcopy(ENTRIES)
    entries[at(tag)] |= fault
    assert check(entries) != []


def test_no_prompt_is_one_of_geneval() -> None:
    if not GENEVAL_PROMPTS.is_file():
        pytest.skip(f"GenEval's prompt file is not at {GENEVAL_PROMPTS}")
    published = {run for line in GENEVAL_PROMPTS.read_text().splitlines() for run in runs(json.loads(line)["prompt"])}
    assert runs("Take a photo of two wine glasses") & published
    assert {run for entry in ENTRIES for run in runs(entry["prompt"])} & published == set()


def test_it_loads_for_an_exam_reward_and_for_no_reward_that_could_not_judge_it() -> None:
    prompts = load_prompts(ExamPrompts(), ExamReward())
    assert [(prompt.text, prompt.metadata) for prompt in prompts] == [(entry["prompt"], entry) for entry in ENTRIES]
    with pytest.raises(ValueError, match=r"exam.jsonl:1: .*include"):
        load_prompts(ExamPrompts(), GenevalReward(detector="shapes"))


def test_the_card_counts_right() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| (\d)-(\d) \|", EXAM.with_name("EXAM.md").read_text(), re.MULTILINE)
    points = {tag: [len(entry["exam_points"]) for entry in ENTRIES if entry["tag"] == tag] for tag in CATEGORIES}
    assert [(tag, *map(int, numbers)) for tag, *numbers in rows] == [
        (tag, len(each), sum(each), min(each), max(each)) for tag, each in points.items()
    ]
    assert f"exam points: {sum(map(sum, points.values()))} yes/no" in EXAM.with_name("EXAM.md").read_text()


def test_the_text_prompts_quote_what_an_ocr_verifier_reads() -> None:
    for entry in ENTRIES:
        if entry["tag"] == "text":
            assert list(wanted_parts(entry, entry["prompt"])) == QUOTED.findall(entry["prompt"])
