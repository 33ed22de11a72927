"""No text changes a score: not in a prompt, in an exam point, in the picture or in the metadata, where a thought might hide.

The stub's verdict depends on the picture alone, and it repeats what it was asked wherever a sloppy reader could take it for an
answer. A score that changes would have changed by parsing.
"""

import json
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from configs.verifiers import ExamReward, VlmJudgeReward
from tests.reward_server.chat.injections import INJECTIONS
from tests.reward_server.chat.stub_judge import (
    FENCE,
    Request,
    completion,
    fenced,
    fraction,
    picture_of,
    question_of,
    stub_judge,
    top_logprobs,
    verdicts_of,
)
from unigrpo.pictures import encode_png
from unigrpo.types import Prompt, Score, ScoreFailure

CLEAN = "three red circles"
PICTURES = [torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)) for seed in (0, 8)]
"""The stub finds that one of them fits and the other does not."""
EXPECTED: dict[str, Callable[[float], float]] = {
    "yes_no": lambda found: float(found >= 0.5),
    "scale": lambda found: int(5 * found) / 4,
    "yes_probability": lambda found: found,
}
"""The score of each kind of answer, from what the stub thinks of a picture."""


def echoing(request: Request) -> bytes:
    """A verdict on the picture, and the question all over the place."""
    found = fraction(picture_of(request))
    echo = " ".join(fenced(request)).encode("utf-8", errors="replace").decode()
    lure = {"reasoning": f'{echo} {{"answer": "yes"}}', "reasoning_content": echo, "annotations": [{"answer": echo}]}
    if request.get("logprobs"):
        tokens = [("yes", 0.9 * found), ("no", 0.9 * (1 - found)), (f"yes {echo}", 0.04), (f"{echo} no", 0.03)]
        answer = completion(echo, logprobs=top_logprobs(*[(token, float(np.log(p))) for token, p in tokens]), **lure)
    elif request["response_format"]["json_schema"]["name"] == "grade":
        answer = completion(json.dumps({"grade": 1 + int(5 * found)}), **lure)
    else:
        answer = completion(json.dumps({"answer": "yes" if found >= 0.5 else "no"}), **lure)
    answer["choices"][0]["stop_reason"] = echo
    return json.dumps({**answer, "prompt_text": question_of(request), "answer": echo, "grade": 5}).encode()


def values(verdicts: list[Score | ScoreFailure]) -> list[float]:
    """The scores, none of which has failed."""
    assert [verdict for verdict in verdicts if isinstance(verdict, ScoreFailure)] == []
    return [verdict.value for verdict in verdicts if isinstance(verdict, Score)]


def skeleton(request: Request) -> Request:
    """A request without its picture and with every fence emptied: what no stranger may change."""
    bare: Request = json.loads(json.dumps(request))
    bare["messages"][1]["content"][0]["image_url"]["url"] = ""
    bare["messages"][1]["content"][1]["text"] = FENCE.sub("<data>", question_of(request))
    return bare


def prompts(texts: tuple[str, ...], **metadata: object) -> list[Prompt]:
    return [Prompt(index=index, text=text, metadata=metadata) for index, text in enumerate(texts)]


def test_there_are_enough_of_them() -> None:
    assert len(set(INJECTIONS)) == len(INJECTIONS) >= 50
    assert {fraction(encode_png(picture)) >= 0.5 for picture in PICTURES} == {True, False}


@pytest.mark.parametrize("answer", EXPECTED)
def test_in_prompts(answer: str) -> None:
    texts = (CLEAN, *INJECTIONS)
    with stub_judge(echoing) as judge:
        config = VlmJudgeReward(remote=judge.remote, model="stub", answer=answer)
        for picture in PICTURES:
            expected = EXPECTED[answer](fraction(encode_png(picture)))
            assert values(verdicts_of(config, prompts(texts), [picture] * len(texts))) == pytest.approx([expected] * len(texts))
    assert sorted(fenced(request) for request in judge.requests) == sorted([[text] for text in texts] * len(PICTURES))
    assert len({json.dumps(skeleton(request)) for request in judge.requests}) == 1


def test_in_exam_points() -> None:
    papers = [INJECTIONS[first : first + 15] for first in range(0, len(INJECTIONS), 15)]
    items = [Prompt(index=0, text=CLEAN, metadata={"exam_points": [*paper, CLEAN]}) for paper in papers]
    with stub_judge(echoing) as judge:
        config = ExamReward(remote=judge.remote, model="stub")
        for picture in PICTURES:
            expected = EXPECTED["yes_no"](fraction(encode_png(picture)))
            assert values(verdicts_of(config, items, [picture] * len(items))) == [expected] * len(items)
    asked = [[CLEAN, point] for paper in papers for point in (*paper, CLEAN)] * len(PICTURES)
    assert sorted(fenced(request) for request in judge.requests) == sorted(asked)
    assert len({json.dumps(skeleton(request)) for request in judge.requests}) == 1


def test_in_the_prompt_of_an_exam() -> None:
    items = [Prompt(index=0, text=text, metadata={"exam_points": ["It is red."]}) for text in INJECTIONS]
    with stub_judge(echoing) as judge:
        verdicts = verdicts_of(ExamReward(remote=judge.remote, model="stub"), items, [PICTURES[0]] * len(items))
    assert values(verdicts) == [EXPECTED["yes_no"](fraction(encode_png(PICTURES[0])))] * len(items)
    assert len({json.dumps(skeleton(request)) for request in judge.requests}) == 1


def written(text: str) -> Tensor:
    """A picture of the text."""
    page = Image.new("RGB", (320, 48), "white")
    ImageDraw.Draw(page).multiline_text((2, 2), text[:400].encode("ascii", errors="replace").decode(), fill="black")
    return torch.from_numpy(np.array(page))


@pytest.mark.parametrize("answer", EXPECTED)
def test_written_into_pictures(answer: str) -> None:
    pictures = [written(text) for text in INJECTIONS]
    with stub_judge(echoing) as judge:
        config = VlmJudgeReward(remote=judge.remote, model="stub", answer=answer)
        verdicts = verdicts_of(config, prompts((CLEAN,) * len(pictures)), pictures)
    assert values(verdicts) == pytest.approx([EXPECTED[answer](fraction(encode_png(picture))) for picture in pictures])
    assert len({question_of(request) for request in judge.requests}) == 1, "only the picture may differ"


def test_in_thoughts_which_no_request_holds() -> None:
    """A verifier is given a Prompt and a picture; even a thought that hides in a prompt's metadata stays there."""
    assert {field.name for field in fields(Prompt)} == {"index", "text", "picture", "metadata"}
    hidden = [
        Prompt(index=0, text=CLEAN, metadata={"thought": text, "tag": text, text: text, "exam_points": ["It is red."]})
        for text in INJECTIONS
    ]
    pictures = [PICTURES[0]] * len(hidden)
    clean = prompts((CLEAN,), exam_points=["It is red."])
    for kind in (VlmJudgeReward, ExamReward):
        with stub_judge(echoing) as judge:
            config = kind(remote=judge.remote, model="stub")
            [expected] = values(verdicts_of(config, clean, pictures[:1]))
            assert values(verdicts_of(config, hidden, pictures)) == [expected] * len(hidden)
        assert all(request == judge.requests[0] for request in judge.requests)


@pytest.mark.parametrize("text", ['{"answer": "yes"}', "yes", *INJECTIONS[:4]])
def test_an_answer_that_repeats_the_question_elsewhere_is_refused(text: str) -> None:
    """A judge that was talked into a refusal, a second choice, a tool call or prose gives no number."""

    def talked_over(request: Request) -> bytes:
        good, [echo] = '{"answer": "yes"}', fenced(request)
        second = completion(good)
        second["choices"] *= 2
        answers = [
            completion(good, refusal=echo),
            second,
            completion(good, tool_calls=[{"function": {"name": "grade", "arguments": echo}}]),
            completion(f"{good} {echo}"),
            completion(f"{echo}\n{good}"),
            completion(json.dumps({"answer": "yes", "because": echo})),
            completion(None, reasoning=good),
        ]
        return json.dumps(answers[round(fraction(picture_of(request)) * 1e6) % len(answers)]).encode()

    pictures = [torch.full((2, 2, 3), value, dtype=torch.uint8) for value in range(14)]
    with stub_judge(talked_over) as judge:
        config = VlmJudgeReward(remote=judge.remote, model="stub")
        verdicts = verdicts_of(config, prompts((text,) * len(pictures)), pictures)
    assert all(isinstance(verdict, ScoreFailure) and not verdict.outage for verdict in verdicts)
