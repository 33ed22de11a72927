"""What anybody's code may answer, and that only plain scores come out of it."""

import math
from collections.abc import Mapping
from typing import Any

import pytest

from reward_server.answers import LARGEST, MAX_PARTS, MAX_TEXT, checked
from unigrpo.types import Score, ScoreFailure


class FakeFloat(float):
    """Claims to lie within any bounds."""

    def __ge__(self, other: object) -> bool:
        return True

    def __le__(self, other: object) -> bool:
        return True

    def __float__(self) -> float:
        return 0.5


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no words")


def score(value: Any = 0.5, breakdown: Any = None) -> Score:
    return Score(value=value, breakdown={} if breakdown is None else breakdown)


def verdict(answer: object, keys: frozenset[str] = frozenset()) -> Score | ScoreFailure:
    return checked(answer, keys=keys, bounds=(0.0, 1.0))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "no score"),
        (0.5, "no score"),
        (Unspeakable(), "its representation raises RuntimeError"),
        (score(True), "not a finite number"),
        (score("0.5"), "not a finite number"),
        (score(math.nan), "not a finite number"),
        (score(10**400), "not a finite number"),
        (score(-(10**400)), "not a finite number"),
        (score(1.0001), "not between 0.0 and 1.0"),
        (score(FakeFloat(7.0)), "7.0, which is not between"),
        (score(breakdown=[]), "no mapping"),
        (Score(value=0.5, breakdown=None), "no mapping"),  # type: ignore[arg-type]
        (score(breakdown={7: 1.0}), "whose name is no text"),
        (score(breakdown={"a": None}), "not a finite number"),
        (score(breakdown={"a": 1e31}), f"at most {LARGEST:g}"),
        (score(breakdown={"a": 10**400}), "not a finite number"),
        (score(breakdown={"a": Unspeakable()}), "its representation raises RuntimeError"),
        (score(breakdown={f"{part}": 1.0 for part in range(MAX_PARTS + 1)}), f"more than {MAX_PARTS} parts"),
        (ScoreFailure(reason=None), "a failure without a text"),  # type: ignore[arg-type]
        (ScoreFailure(reason="x", outage="yes"), "a failure without a text"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_score_is_a_failure_that_says_why(answer: object, said: str) -> None:
    failure = verdict(answer)
    assert isinstance(failure, ScoreFailure)
    assert said in failure.reason
    assert failure.outage is False
    assert len(failure.reason) < 800


def test_missing_parts_are_named() -> None:
    failure = verdict(score(breakdown={"a": 1.0}), keys=frozenset({"a", "b"}))
    assert isinstance(failure, ScoreFailure)
    assert "without ['b']" in failure.reason


def test_a_mapping_that_raises_when_it_is_read_is_a_failure() -> None:
    class Trap(Mapping[str, float]):
        def __getitem__(self, key: str) -> float:
            raise SystemError("gotcha")

        def __iter__(self) -> Any:
            return iter(["a"])

        def __len__(self) -> int:
            return 1

    failure = verdict(score(breakdown=Trap()))
    assert failure == ScoreFailure(reason="answered something that raises SystemError when it is read")


def test_scores_come_out_as_plain_numbers_and_texts_of_bounded_length() -> None:
    found = verdict(score(FakeFloat(0.25), {"n": 3, "text": "x" * (MAX_TEXT + 9)}))
    assert isinstance(found, Score)
    assert type(found.value) is float
    assert found.value == 0.25
    assert found.breakdown["n"] == 3.0
    assert found.breakdown["text"] == "x" * MAX_TEXT + "…"
    cut = verdict(ScoreFailure(reason="y" * 9999, outage=True))
    assert cut == ScoreFailure(reason="y" * MAX_TEXT + "…", outage=True)
