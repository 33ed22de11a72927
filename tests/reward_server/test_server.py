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
from reward_server.server import RewardServer, Tally, content_key
from reward_server.verifiers import VERIFIERS
from reward_server.verifiers.base import LocalVerifier, judge_each
from tests.reward_server.fakes import prompt
from unigrpo.types import Prompt, Score, ScoreFailure

IMAGES = [torch.full((8, 8, 3), shade, dtype=torch.uint8) for shade in range(8)]
IMAGE = IMAGES[0]


class FakeVerifier(LocalVerifier):
    """Answers what a test tells it to."""

    breakdown_keys = frozenset({"part"})
    bounds = (-1.0, 1.0)
    answer: ClassVar[Callable[[Sequence[Tensor]], Any]]

    def __init__(self, config: Any) -> None:
        pass

    @staticmethod
    def validate_metadata(config: Any, metadata: Mapping[str, Any]) -> None:
        pass

    def score(self, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> list[Score | ScoreFailure]:
        return type(self).answer(images)


@pytest.fixture
def server_that(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RewardServer]:
    def build(answer: Callable[[Sequence[Tensor]], Any], **settings: Any) -> RewardServer:
        monkeypatch.setitem(VERIFIERS, "random", type("ToldVerifier", (FakeVerifier,), {"answer": staticmethod(answer)}))
        return RewardServer(RandomReward(**settings))

    return build


GOOD = Score(value=0.0, breakdown={"part": 0.5, "reason": "none"})


def test_good_scores_pass_zero_among_them(server_that: Any) -> None:
    server = server_that(lambda images: [GOOD] * len(images))
    assert server.score([prompt({})] * 2, IMAGES[:2]) == [GOOD, GOOD]
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
        (Score(value=True, breakdown={"part": 1.0}), "True"),
        (Score(value=1.01, breakdown={"part": 1.0}), "not between -1.0 and 1.0"),
        (Score(value=-1.01, breakdown={"part": 1.0}), "not between -1.0 and 1.0"),
        (0.7, "0.7"),
        (None, "None"),
    ],
)
def test_an_answer_that_is_no_score_fails_its_item_and_is_quoted(server_that: Any, answer: Any, quoted: str) -> None:
    server = server_that(lambda images: [GOOD, answer, GOOD])
    first, failure, third = server.score([prompt({})] * 3, IMAGES[:3])
    assert first == third == GOOD
    assert isinstance(failure, ScoreFailure)
    assert quoted in failure.reason
    assert server.tally() == Tally(asked=3, failed=1)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_wrong_number_of_answers_fails_every_item(server_that: Any, number: int) -> None:
    server = server_that(lambda images: [GOOD] * number)
    reason = f"random answered {number} verdicts for 2 pictures"
    assert server.score([prompt({})] * 2, IMAGES[:2]) == [ScoreFailure(reason=reason)] * 2


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
        failed = server.score([prompt({})] * 2, IMAGES[:2])
    assert failed == [ScoreFailure(reason="random: ConnectionError: judge unreachable")] * 2
    assert "Traceback" in caplog.text
    assert server.score([prompt({})], [IMAGE]) == [GOOD]
    assert server.tally() == Tally(asked=3, failed=2)


def test_nothing_is_judged_twice_that_has_a_score(server_that: Any) -> None:
    seen: list[int] = []
    broken = {2}

    def answer(images: Sequence[Tensor]) -> list[Score | ScoreFailure]:
        shades = [int(image[0, 0, 0]) for image in images]
        seen.extend(shades)
        return [ScoreFailure(reason="blind") if shade in broken else GOOD for shade in shades]

    server = server_that(answer, cache_entries=4)
    order = [IMAGES[shade] for shade in (1, 1, 2, 3)]
    first = server.score([prompt({})] * 4, order)
    assert seen == [1, 2, 3]
    assert [isinstance(verdict, Score) for verdict in first] == [True, True, False, True]
    broken.clear()
    assert server.score([prompt({})] * 4, order) == [GOOD] * 4
    assert seen == [1, 2, 3, 2]
    server.score([prompt({"other": 1})], [IMAGES[1]])
    server.score([Prompt(index=0, text="another", metadata={})], [IMAGES[1]])
    assert seen == [1, 2, 3, 2, 1, 1]
    assert server.tally() == Tally(asked=10, cached=4, failed=1)
    server.score([prompt({})], [IMAGES[2]])
    assert seen[-1] == 1, "one of the four met last"
    server.score([prompt({})], [IMAGES[1]])
    assert len(seen) == 7, "met longest ago, and so forgotten"


def test_a_picture_of_another_shape_or_a_verifier_of_another_version_is_judged_anew() -> None:
    wide, high = torch.zeros(4, 8, 3, dtype=torch.uint8), torch.zeros(8, 4, 3, dtype=torch.uint8)
    keys = {content_key(version, prompt({}), image) for version in ("1", "2") for image in (wide, high)}
    assert len(keys) == 4
    assert content_key("1", prompt({"a": 1, "b": 2}), wide) == content_key("1", prompt({"b": 2, "a": 1}), wide)


def test_a_score_is_not_remembered_under_a_version_that_did_not_give_it(server_that: Any) -> None:
    server = server_that(lambda images: [GOOD] * len(images))
    verifier = server._verifier
    answer = type(verifier).answer

    def change(images: Sequence[Tensor]) -> list[Score]:
        type(verifier).version = "2"
        return answer(images)

    type(verifier).answer = staticmethod(change)
    server.score([prompt({})], [IMAGE])
    type(verifier).version = "1"
    assert server.judge([prompt({})], [IMAGE]).asked == Tally(asked=1, cached=0)
    assert server.judge([prompt({})], [IMAGE]).version == "2"


def test_remembered_scores_of_another_version_are_not_mixed_with_fresh_ones(server_that: Any) -> None:
    server = server_that(lambda images: [GOOD] * len(images))
    verifier = type(server._verifier)
    server.score([prompt({})], IMAGES[:1])

    def change(images: Sequence[Tensor]) -> list[Score]:
        verifier.version = "2"
        return [GOOD] * len(images)

    verifier.answer = staticmethod(change)
    old, new = server.score([prompt({})] * 2, IMAGES[:2])
    assert isinstance(old, ScoreFailure)
    assert "changed from version 1 to 2" in old.reason
    assert new == GOOD


def test_a_judgement_says_what_was_asked_and_whether_the_verifier_raised(server_that: Any) -> None:
    errors = iter([RuntimeError("CUDA error: device-side assert"), None])

    def answer(images: Sequence[Tensor]) -> list[Score]:
        if error := next(errors):
            raise error
        return [GOOD] * len(images)

    server = server_that(answer)
    first, second = (server.judge([prompt({})] * 2, IMAGES[:2]) for _ in range(2))
    assert (first.broken, first.asked, second.broken) == (True, Tally(asked=2, failed=2), False)
    assert second.verdicts == (GOOD, GOOD)


def test_items_that_all_raise_are_the_verifiers_fault() -> None:
    def judge(prompt: Prompt, image: Tensor) -> Score:
        if int(image[0, 0, 0]) < 2:
            raise RuntimeError("blind")
        return GOOD

    assert [isinstance(each, Score) for each in judge_each(judge, [prompt({})] * 3, IMAGES[:3])] == [False, False, True]
    assert isinstance(judge_each(judge, [prompt({})], IMAGES[:1])[0], ScoreFailure)
    with pytest.raises(RuntimeError, match="blind"):
        judge_each(judge, [prompt({})] * 2, IMAGES[:2])


def test_a_verifier_is_asked_in_batches(server_that: Any) -> None:
    sizes: list[int] = []

    def answer(images: Sequence[Tensor]) -> list[Score]:
        sizes.append(len(images))
        return [GOOD] * len(images)

    assert server_that(answer, batch_size=3).score([prompt({})] * 8, IMAGES) == [GOOD] * 8
    assert sizes == [3, 3, 2]


def test_what_came_between_two_tallies() -> None:
    later, earlier = Tally(asked=9, cached=4, failed=2, retried=5), Tally(asked=4, cached=4, failed=1, retried=0)
    assert later - earlier == Tally(asked=5, cached=0, failed=1, retried=5)


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
