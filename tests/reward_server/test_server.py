"""A failure is never a number, whatever a verifier does."""

import logging
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from configs.verifiers import GenevalReward, RandomReward
from reward_server.server import RewardServer, Tally
from reward_server.verifiers import VERIFIERS
from tests.reward_server.fakes import prompt
from unigrpo.types import Prompt, Score, ScoreFailure

IMAGE = torch.zeros(8, 8, 3, dtype=torch.uint8)


class Puppet:
    """Answers what a test tells it to."""

    breakdown_keys: ClassVar = frozenset({"part"})
    answer: ClassVar[Callable[[Sequence[Tensor]], Any]]

    def __init__(self, config: Any) -> None:
        pass

    @staticmethod
    def validate_metadata(config: Any, metadata: Mapping[str, Any]) -> None:
        pass

    def score(self, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> list[Score | ScoreFailure]:
        return type(self).answer(images)


@pytest.fixture
def server_that(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Sequence[Tensor]], Any]], RewardServer]:
    def build(answer: Callable[[Sequence[Tensor]], Any]) -> RewardServer:
        monkeypatch.setitem(VERIFIERS, "random", type("ToldPuppet", (Puppet,), {"answer": staticmethod(answer)}))
        return RewardServer(RandomReward())

    return build


GOOD = Score(value=0.0, breakdown={"part": 0.5, "reason": "none"})


def test_good_scores_pass_zero_among_them(server_that: Any) -> None:
    server = server_that(lambda images: [GOOD] * len(images))
    assert server.score([prompt({})] * 2, [IMAGE] * 2) == [GOOD, GOOD]
    assert server.score([], []) == []
    assert server.tally() == Tally(asked=2, failed=0)


@pytest.mark.parametrize(
    ("answer", "quoted"),
    [
        (Score(value=math.nan, breakdown={"part": 1.0}), "nan"),
        (Score(value=math.inf, breakdown={"part": 1.0}), "inf"),
        (Score(value=1.0, breakdown={"part": -math.inf}), "-inf"),
        (Score(value="1.0", breakdown={"part": 1.0}), "'1.0'"),  # type: ignore[arg-type]
        (Score(value=None, breakdown={"part": 1.0}), "None"),  # type: ignore[arg-type]
        (Score(value=1.0, breakdown={"part": None}), "None"),  # type: ignore[dict-item]
        (Score(value=1.0, breakdown={}), "without ['part']"),
        (0.7, "0.7"),
        (None, "None"),
    ],
)
def test_an_answer_that_is_no_score_fails_its_item_and_is_quoted(server_that: Any, answer: Any, quoted: str) -> None:
    server = server_that(lambda images: [GOOD, answer, GOOD])
    first, failure, third = server.score([prompt({})] * 3, [IMAGE] * 3)
    assert first == third == GOOD
    assert isinstance(failure, ScoreFailure)
    assert quoted in failure.reason
    assert server.tally() == Tally(asked=3, failed=1)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_wrong_number_of_answers_fails_every_item(server_that: Any, number: int) -> None:
    server = server_that(lambda images: [GOOD] * number)
    reason = f"random answered {number} verdicts for 2 pictures"
    assert server.score([prompt({})] * 2, [IMAGE] * 2) == [ScoreFailure(reason=reason)] * 2


def test_a_broken_verifier_fails_every_item_and_the_next_call_is_free_of_it(
    server_that: Any, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = iter([ConnectionError("judge unreachable"), None])

    def answer(images: Sequence[Tensor]) -> list[Score]:
        if error := next(outcomes):
            raise error
        return [GOOD] * len(images)

    server = server_that(answer)
    with caplog.at_level(logging.ERROR):
        failed = server.score([prompt({})] * 2, [IMAGE] * 2)
    assert failed == [ScoreFailure(reason="random: ConnectionError: judge unreachable")] * 2
    assert "Traceback" in caplog.text
    assert server.score([prompt({})], [IMAGE]) == [GOOD]
    assert server.tally() == Tally(asked=3, failed=2)


@pytest.mark.parametrize(
    "images", [[], [IMAGE] * 2, [IMAGE.float()], [IMAGE.permute(2, 0, 1)], [IMAGE[..., :1]], [IMAGE[None]], [IMAGE.to("meta")]]
)
def test_the_callers_mistakes_are_raised(images: list[Tensor]) -> None:
    server = RewardServer(RandomReward())
    with pytest.raises(ValueError, match="got"):
        server.score([prompt({})], images)
    assert server.tally() == Tally(asked=0, failed=0)


def test_metadata_that_cannot_be_judged_is_a_failure_not_a_zero() -> None:
    broken, blank = prompt({"tag": "colors", "include": [{"class": "circle"}]}), prompt({"tag": "colors"})
    fine = prompt({"tag": "single_object", "include": [{"class": "circle", "count": 1}]})
    image = torch.zeros(24, 24, 3, dtype=torch.uint8)
    verdicts = RewardServer(GenevalReward(detector="shapes")).score([broken, fine, blank], [image] * 3)
    assert [isinstance(verdict, Score) for verdict in verdicts] == [False, True, False]
    assert "lacks ['count']" in verdicts[0].reason  # type: ignore[union-attr]
    assert pickle.loads(pickle.dumps(verdicts)) == verdicts
