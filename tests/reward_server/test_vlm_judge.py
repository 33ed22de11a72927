"""The judge of one question a picture, against a stub server."""

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.verifiers import VlmJudgeReward
from reward_server.server import RewardServer
from reward_server.verifiers.vlm_judge import VlmJudgeVerifier
from tests.reward_server.chat.bad_answers import BODIES, GRADE_TEXTS, LOGPROBS, YES_NO_TEXTS, body
from tests.reward_server.chat.stub_judge import Request, completion, fenced, question_of, stub_judge, top_logprobs, verdicts_of
from unigrpo.types import Prompt, Score, ScoreFailure

PICTURE = torch.zeros(4, 6, 3, dtype=torch.uint8)


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(index=index, text=text, metadata={}) for index, text in enumerate(texts)]


def says(make: Callable[[str], Any]) -> Callable[[Request], bytes]:
    """A stub that answers what the prompt says: `make` turns the prompt's text into a completion."""
    return lambda request: body(make(fenced(request)[0]))


def judged(make: Callable[[str], Any], *texts: str, **config: Any) -> list[Score | ScoreFailure]:
    with stub_judge(says(make)) as judge:
        judge_config = VlmJudgeReward(remote=judge.remote, model="stub", **config)
        return verdicts_of(judge_config, prompts(*texts), [PICTURE] * len(texts))


def test_yes_is_one_and_no_is_zero() -> None:
    assert judged(lambda text: completion(json.dumps({"answer": text})), "yes", "no") == [
        Score(value=1.0, breakdown={"vlm_judge": 1.0, "answer": "yes"}),
        Score(value=0.0, breakdown={"vlm_judge": 0.0, "answer": "no"}),
    ]


def test_grades_run_from_zero_to_one() -> None:
    verdicts = judged(lambda text: completion(f'{{"grade": {text}}}'), "1", "2", "5", answer="scale", scale=5)
    assert verdicts == [
        Score(value=0.0, breakdown={"vlm_judge": 0.0, "answer": "1"}),
        Score(value=0.25, breakdown={"vlm_judge": 0.25, "answer": "2"}),
        Score(value=1.0, breakdown={"vlm_judge": 1.0, "answer": "5"}),
    ]


def test_the_probability_of_yes() -> None:
    [verdict] = judged(
        lambda text: completion("no", logprobs=top_logprobs(("no", -0.5), ("yes", -1.5))), "a", answer="yes_probability"
    )
    assert isinstance(verdict, Score)
    assert verdict.value == verdict.breakdown["vlm_judge"] == pytest.approx(0.26894142)  # the logistic function of -1
    assert verdict.breakdown["answer"] == str(verdict.value)


def test_the_request() -> None:
    with stub_judge(says(lambda text: completion('{"grade": 7}'))) as judge:
        config = VlmJudgeReward(remote=judge.remote, model="judge-7b", answer="scale", scale=7)
        verdicts_of(config, prompts("three red circles"), [PICTURE])
    [request], [headers] = judge.requests, judge.headers
    assert request.keys() == {"model", "messages", "temperature", "seed", "max_tokens", "response_format"}
    assert request["model"] == "judge-7b"
    assert request["response_format"]["json_schema"]["schema"]["properties"] == {
        "grade": {"type": "integer", "enum": [1, 2, 3, 4, 5, 6, 7]}
    }
    assert fenced(request) == ["three red circles"]
    assert "to 7 (everything" in question_of(request)
    assert headers["path"] == "/v1/chat/completions"
    assert headers["content-type"] == "application/json"


def test_equal_questions_have_equal_keys_and_others_other_ones() -> None:
    with stub_judge(says(lambda text: completion('{"answer": "no"}'))) as judge:
        config = VlmJudgeReward(remote=judge.remote, model="stub")
        for text, picture in (("a", PICTURE), ("a", PICTURE.clone()), ("b", PICTURE), ("a", PICTURE + 1)):
            verdicts_of(config, prompts(text), [picture])
    first, again, *others = [headers["idempotency-key"] for headers in judge.headers]
    assert first == again
    assert len({first, *others}) == 3


def cases() -> list[tuple[str, bytes]]:
    """Kind of answer and body, for every bad answer there is."""
    texts = [("yes_no", text) for text, _ in YES_NO_TEXTS] + [("scale", text) for text, _ in GRADE_TEXTS]
    return [
        *[(kind, content) for kind in ("yes_no", "scale", "yes_probability") for content, _ in BODIES],
        *[(kind, body(completion(text))) for kind, text in texts],
        *[("yes_probability", body(completion("yes", logprobs=logprobs))) for logprobs, _ in LOGPROBS],
    ]


@pytest.mark.parametrize("answer", ["yes_no", "scale", "yes_probability"])
def test_no_bad_answer_becomes_a_number(answer: str) -> None:
    contents = [content for kind, content in cases() if kind == answer]
    assert len(contents) >= 60
    with stub_judge(lambda request: contents[int(fenced(request)[0])]) as judge:
        server = RewardServer(VlmJudgeReward(remote=judge.remote, model="stub", answer=answer))
        verdicts = server.score(prompts(*map(str, range(len(contents)))), [PICTURE] * len(contents))
    assert [verdict for verdict in verdicts if not isinstance(verdict, ScoreFailure) or verdict.outage] == []


def test_one_bad_answer_fails_its_own_picture_alone() -> None:
    good, bad, other = judged(lambda text: completion(json.dumps({"answer": text})), "yes", "perhaps", "no")
    assert isinstance(good, Score)
    assert isinstance(other, Score)
    assert isinstance(bad, ScoreFailure)
    assert "perhaps" in bad.reason


def test_an_empty_picture_fails_alone() -> None:
    with stub_judge(says(lambda text: completion('{"answer": "yes"}'))) as judge:
        config = VlmJudgeReward(remote=judge.remote, model="stub")
        empty, whole = verdicts_of(config, prompts("a", "b"), [PICTURE[:0], PICTURE])
    assert isinstance(empty, ScoreFailure)
    assert isinstance(whole, Score)


def test_no_endpoint_there_is_an_outage() -> None:
    with stub_judge(says(lambda text: completion('{"answer": "yes"}'))) as judge:
        config = VlmJudgeReward(remote=judge.remote, model="stub")
    [verdict] = verdicts_of(config, prompts("a"), [PICTURE])
    assert isinstance(verdict, ScoreFailure)
    assert verdict.outage


def test_the_version_names_all_that_decides_a_score(tmp_path: Path) -> None:
    template = tmp_path / "template.json"
    numbers = count()

    def version(**config: Any) -> str:
        remote = {"endpoints": [f"http://127.0.0.1:{9000 + next(numbers)}/v1"], "private_hosts": ["127.0.0.1"]}
        judge = VlmJudgeVerifier(VlmJudgeReward.model_validate({"remote": remote, "model": "a", **config}))
        judge.close()
        return judge.version

    template.write_text('{"system": "Judge.", "question": "{prompt}"}')
    first = version(template=template)
    template.write_text('{"system": "Judge well.", "question": "{prompt}"}')
    versions = [
        version(),
        version(model="b"),
        version(answer="yes_probability"),
        version(answer="scale"),
        version(answer="scale", scale=6),
        first,
        version(template=template),
    ]
    assert len(set(versions)) == len(versions)
    assert version() == versions[0], "whoever answers, the question is the same"


def test_a_judge_without_a_model_is_refused() -> None:
    remote = {"endpoints": ["http://127.0.0.1:9000/v1"], "private_hosts": ["127.0.0.1"]}
    with pytest.raises(ValueError, match=r"model is null; set it"):
        VlmJudgeVerifier(VlmJudgeReward.model_validate({"remote": remote}))
