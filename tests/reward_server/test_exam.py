"""The exam: the share of yes over a prompt's points, against a stub server that marks each point as it says."""

import json
from typing import Any

import pytest
import torch

from configs.verifiers import ExamReward
from reward_server.verifiers import VERIFIERS
from reward_server.verifiers.exam import exam_points
from tests.reward_server.chat.stub_judge import Request, completion, fenced, stub_judge, verdicts_of
from unigrpo.types import Prompt, Score, ScoreFailure

PICTURE = torch.zeros(4, 6, 3, dtype=torch.uint8)


def marks(request: Request) -> bytes:
    """ "yes, it is red" is met, "no, it is not" is not; what begins with "silence" has no answer."""
    _, point = fenced(request)
    return json.dumps(completion(None if point.startswith("silence") else f'{{"answer": "{point.split(",")[0]}"}}')).encode()


def marked(*papers: list[Any], prompt: str = "a cat") -> tuple[list[Score | ScoreFailure], list[Request]]:
    items = [Prompt(index=index, text=prompt, metadata={"exam_points": points}) for index, points in enumerate(papers)]
    with stub_judge(marks) as judge:
        verdicts = verdicts_of(ExamReward(remote=judge.remote, model="stub"), items, [PICTURE] * len(items))
    return verdicts, judge.requests


def test_the_share_of_yes() -> None:
    verdicts, requests = marked(
        ["yes, red", "no, blue", "yes, round"], ["no, none"], ["yes, all"], ["no, a", "yes, b", "no, c", "no, d"]
    )
    assert verdicts == [
        Score(value=2 / 3, breakdown={"exam": 2 / 3, "yes": "yes, red; yes, round", "no": "no, blue"}),
        Score(value=0.0, breakdown={"exam": 0.0, "yes": "", "no": "no, none"}),
        Score(value=1.0, breakdown={"exam": 1.0, "yes": "yes, all", "no": ""}),
        Score(value=0.25, breakdown={"exam": 0.25, "yes": "yes, b", "no": "no, a; no, c; no, d"}),
    ]
    assert len(requests) == 9, "one call a point"


def test_what_is_asked() -> None:
    _, [request] = marked(["yes, it has fur"], prompt="a cat on a mat")
    assert fenced(request) == ["a cat on a mat", "yes, it has fur"]
    assert list(request["response_format"]["json_schema"]["schema"]["properties"]) == ["answer"]


def test_a_point_without_an_answer_fails_its_picture_and_no_other() -> None:
    (first, broken, last), _ = marked(["yes, a", "no, b"], ["yes, c", "silence", "yes, d"], ["yes, e"])
    assert isinstance(first, Score)
    assert isinstance(last, Score)
    assert isinstance(broken, ScoreFailure)
    assert not broken.outage
    assert broken.reason.startswith("1 of 3 answers failed, the first: ")
    assert "no text" in broken.reason


def test_an_outage_of_one_point_is_an_outage_of_the_picture() -> None:
    with stub_judge(marks) as judge:
        config = ExamReward(remote=judge.remote, model="stub")
    items = [Prompt(index=0, text="a", metadata={"exam_points": ["yes, a", "no, b"]})]
    [verdict] = verdicts_of(config, items, [PICTURE])
    assert isinstance(verdict, ScoreFailure)
    assert verdict.outage


def test_a_prompt_without_points_fails_alone_and_is_not_asked_about() -> None:
    (bad, good), requests = marked([], ["yes, a"])
    assert isinstance(bad, ScoreFailure)
    assert "exam_points" in bad.reason
    assert isinstance(good, Score)
    assert len(requests) == 1


def test_points_are_read() -> None:
    assert exam_points({"prompt": "a", "exam_points": ["It is red.", "It is round."]}) == ["It is red.", "It is round."]
    assert len(exam_points({"exam_points": [str(number) for number in range(20)]})) == 20


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "exam_points is None, but must be a list of 1 to 20 texts"),
        ({"exam_points": None}, "is None"),
        ({"exam_points": "It is red."}, "must be a list"),
        ({"exam_points": {"a": "b"}}, "must be a list"),
        ({"exam_points": []}, "must be a list of 1 to 20"),
        ({"exam_points": [str(number) for number in range(21)]}, "must be a list of 1 to 20"),
        ({"exam_points": ["a", ""]}, "holds '', but each must be a text"),
        ({"exam_points": ["a", " \n"]}, "each must be a text"),
        ({"exam_points": ["a", 1]}, "holds 1"),
        ({"exam_points": ["a", None]}, "holds None"),
        ({"exam_points": ["a", ["b"]]}, "each must be a text"),
        ({"exam_points": ["a", "b", "a"]}, "a text twice"),
    ],
)
def test_points_that_cannot_be_marked_are_refused(metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VERIFIERS["exam"].validate_metadata(ExamReward(), metadata)
