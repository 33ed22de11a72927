"""The verifier `http` against services on 127.0.0.1: what it sends, what it takes for a verdict, and what never is one."""

import asyncio
import json
from collections.abc import Iterator
from math import inf
from typing import Any

import pytest

from configs.verifiers import HttpReward, RandomReward
from reward_server.server import RewardServer
from reward_server.verifiers.http import HttpVerifier
from tests.reward_server.remote.fake_service import PROTOCOL, FakeService, answer, picture, prompt, read_parts, score
from tests.reward_server.remote.fakes import FakeJudge as FakeServer, FakeNet, fake_judge, remote
from tests.reward_server.service.fakes import GOOD, TOKEN, FakeJudge, live
from unigrpo.pictures import encode_png
from unigrpo.types import Score, ScoreFailure


@pytest.fixture(scope="module")
def service() -> FakeService:
    return FakeService()


@pytest.fixture(scope="module")
def judge(net: FakeNet, service: FakeService) -> Iterator[FakeServer]:
    with fake_judge(net, service) as made:
        yield made


@pytest.fixture
def verifier(judge: FakeServer, service: FakeService) -> Iterator[HttpVerifier]:
    service.reply = None
    service.requests.clear()
    judge.seen.clear()
    made = HttpVerifier(HttpReward(remote=remote(judge.url, max_attempts=1), batch_size=3))
    yield made
    made.close()


def test_batches_are_sent_and_verdicts_come_back_in_order(
    judge: FakeServer, service: FakeService, verifier: HttpVerifier
) -> None:
    prompts = [prompt(index, tag="counting", include=[{"class": "cat", "count": index}]) for index in range(7)]
    images = [picture(shade) for shade in range(7)]
    verdicts = verifier.score(prompts, images)
    assert [verdict.value for verdict in verdicts if isinstance(verdict, Score)] == [0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.1]
    assert sorted(len(request["items"]) for request in service.requests) == [1, 3, 3]
    for seen in judge.seen:
        assert seen.path == "/v1/score"
        [request, *pictures] = asyncio.run(read_parts(seen))
        sent = json.loads(request[1])
        assert sent["protocol"] == PROTOCOL
        places = [int(item["prompt"].removeprefix("picture ")) for item in sent["items"]]
        assert sent["items"] == [{"prompt": prompts[place].text, "metadata": prompts[place].metadata} for place in places]
        assert pictures == [("image", encode_png(images[place])) for place in places]


def test_version_and_bounds_are_what_the_service_says(service: FakeService, verifier: HttpVerifier) -> None:
    assert (verifier.version, verifier.bounds) == ("not answered yet", (-inf, inf))
    verifier.score([prompt()], [picture()])
    assert (verifier.version, verifier.bounds) == ("v3", (0.0, 1.0))
    service.reply = json.dumps(answer(score(-7), version="v4", bounds=[None, 0])).encode()
    assert verifier.score([prompt()], [picture()]) == [Score(value=-7.0, breakdown={"why": "seen"})]
    assert (verifier.version, verifier.bounds) == ("v4", (-inf, 0.0))


def test_failures_of_single_items_keep_their_kind(service: FakeService, verifier: HttpVerifier) -> None:
    failures = [{"failure": "no judge", "outage": True}, {"failure": "said maybe", "outage": False}]
    service.reply = json.dumps(answer(score(1), *failures)).encode()
    assert verifier.score([prompt()] * 3, [picture(shade) for shade in range(3)]) == [
        Score(value=1.0, breakdown={"why": "seen"}),
        ScoreFailure(reason="no judge", outage=True),
        ScoreFailure(reason="said maybe", outage=False),
    ]


def test_the_key_is_a_function_of_the_content(judge: FakeServer, verifier: HttpVerifier) -> None:
    def key(index: int, shade: int, **metadata: Any) -> str:
        verifier.score([prompt(index, **metadata)], [picture(shade)])
        return judge.seen[-1].headers["Idempotency-Key"]

    keys = [key(0, 0), key(1, 0), key(0, 1), key(0, 0, tag="x"), key(0, 0, tag="y")]
    assert len(set(keys)) == 5
    assert [key(0, 0), key(1, 0), key(0, 1), key(0, 0, tag="x"), key(0, 0, tag="y")] == keys
    assert all(len(each) <= 128 for each in keys)


def test_metadata_that_is_not_json_fails_its_own_item(verifier: HttpVerifier) -> None:
    bad: list[dict[str, Any]] = [{"tag": float("nan")}, {"tag": {1, 2}}]
    verdicts = verifier.score([prompt(0), *(prompt(1, **metadata) for metadata in bad)], [picture()] * 3)
    assert isinstance(verdicts[0], Score)
    for verdict in verdicts[1:]:
        assert isinstance(verdict, ScoreFailure)
        assert not verdict.outage
        assert "prompt 1 cannot be sent" in verdict.reason
        assert "JSON" in verdict.reason


def test_a_picture_without_pixels_fails_alone(verifier: HttpVerifier) -> None:
    whole, empty = verifier.score([prompt(0), prompt(1)], [picture(), picture()[:0]])
    assert isinstance(whole, Score)
    assert empty == ScoreFailure(reason="prompt 1 cannot be sent: its picture [0, 6, 3] has no pixels")


def test_a_change_of_version_between_calls_is_said(
    service: FakeService, verifier: HttpVerifier, caplog: pytest.LogCaptureFixture
) -> None:
    verifier.score([prompt()], [picture()])
    service.reply = json.dumps(answer(score(), version="v4")).encode()
    assert isinstance(verifier.score([prompt()], [picture()])[0], Score)
    assert "changed its version from v3 to v4" in caplog.text


def test_a_service_that_is_gone_is_an_outage_of_every_item(net: FakeNet) -> None:
    with fake_judge(net, FakeService()) as judge:
        pass
    verifier = HttpVerifier(HttpReward(remote=remote(judge.url, max_attempts=2)))
    verdicts = verifier.score([prompt()] * 2, [picture()] * 2)
    assert verifier.num_retries == 1
    verifier.close()
    assert all(isinstance(verdict, ScoreFailure) and verdict.outage for verdict in verdicts)


def test_the_reward_server_judges_with_it(judge: FakeServer, service: FakeService) -> None:
    service.reply = None
    judge.seen.clear()
    server = RewardServer(HttpReward(remote=remote(judge.url)))
    prompts, images = [prompt(0), prompt(1)], [picture(0), picture(1)]
    first = server.score(prompts, images)
    again = [server.score(prompts, images) for _ in range(2)]
    assert all(isinstance(verdict, Score) for verdict in first)
    assert again == [first, first]
    assert len(judge.seen) == 2  # the first answer told the version, under which the second one is remembered


WRONG_ANSWERS: dict[str, bytes | dict[str, Any]] = {
    "empty": b"",
    "blank": b" \n",
    "no JSON": b"the score is 0.7",
    "HTML": b"<!doctype html><html><body>0.7</body></html>",
    "cut off": json.dumps(answer(score(), score())).encode()[:-5],
    "two values": json.dumps(answer(score(), score())).encode() * 2,
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(answer(score(), score())).encode(),
    "not UTF-8": b'{"protocol": "\xff"}',
    "UTF-16": json.dumps(answer(score(), score())).encode("utf-16"),
    "half a surrogate pair": json.dumps(answer(score(why="\ud800"), score())).encode(),
    "a number": b"0.7",
    "null": b"null",
    "a list": b"[0.7, 0.7]",
    "a string": b'"0.7"',
    "deep": 500 * b"[" + 500 * b"]",
    "very deep": 200_000 * b"[",
    "deep breakdown": answer(score(why={"a": {"b": {}}}), score()),
    "huge integer": json.dumps(answer(score(0), score())).replace('"value": 0,', '"value": ' + 5000 * "9" + ",").encode(),
    "NaN": json.dumps(answer(score(float("nan")), score())).encode(),
    "Infinity": json.dumps(answer(score(float("inf")), score())).encode(),
    "infinite by exponent": json.dumps(answer(score(0), score())).replace('"value": 0,', '"value": 1e999,').encode(),
    "NaN in the breakdown": json.dumps(answer(score(why=float("nan")), score())).encode(),
    "NaN bound": json.dumps(answer(score(), score(), bounds=[float("nan"), 1])).encode(),
    "value a string": answer(score("0.7"), score()),
    "value a bool": answer(score(True), score()),
    "value null": answer(score(None), score()),
    "value a list": answer(score([0.7]), score()),
    "no value": answer({"breakdown": {}}, score()),
    "no breakdown": answer({"value": 0.7}, score()),
    "breakdown a list": answer({"value": 0.7, "breakdown": [1]}, score()),
    "breakdown null inside": answer(score(why=None), score()),
    "extra key in a result": answer(score() | {"note": "x"}, score()),
    "extra key": answer(score(), score(), note="x"),
    "key given twice": json.dumps(answer(score(), score())).replace('"value": 0.5', '"value": 0.1, "value": 0.5').encode(),
    "failure without its kind": answer({"failure": "x"}, score()),
    "failure with a value": answer({"failure": "x", "outage": False, "value": 0.0}, score()),
    "failure by a number": answer({"failure": "x", "outage": 0}, score()),
    "above the bounds": answer(score(1.001), score()),
    "below the bounds": answer(score(-0.001), score()),
    "bounds the wrong way": answer(score(), score(), bounds=[1, 0]),
    "one bound": answer(score(), score(), bounds=[0]),
    "no bounds": {key: value for key, value in answer(score(), score()).items() if key != "bounds"},
    "no version": {key: value for key, value in answer(score(), score()).items() if key != "version"},
    "empty version": answer(score(), score(), version=""),
    "version a number": answer(score(), score(), version=3),
    "no protocol": {key: value for key, value in answer(score(), score()).items() if key != "protocol"},
    "another protocol": answer(score(), score(), protocol="unigrpo-reward/2"),
    "no results": answer(),
    "one result too few": answer(score()),
    "one result too many": answer(score(), score(), score()),
    "results by name": answer() | {"results": {"0": score(), "1": score()}},
    "a bare number for a result": answer(0.7, score()),
    "an error with status 200": {"error": "overloaded"},
}


@pytest.mark.parametrize("reply", WRONG_ANSWERS.values(), ids=WRONG_ANSWERS.keys())
def test_wrong_answers_fail_the_batch_are_quoted_and_no_outage(
    service: FakeService, verifier: HttpVerifier, caplog: pytest.LogCaptureFixture, reply: bytes | dict[str, Any]
) -> None:
    service.reply = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
    verdicts = verifier.score([prompt()] * 2, [picture(0), picture(1)])
    assert len(verdicts) == 2
    for verdict in verdicts:
        assert isinstance(verdict, ScoreFailure)
        assert not verdict.outage
        assert "wrong answer" in verdict.reason
        assert len(verdict.reason) < 1300
    assert len(service.requests) == 1
    said = service.reply[:9].decode("utf-8", errors="replace")
    assert "it said: " + "".join(letter if letter.isprintable() else "?" for letter in said) in caplog.text
    assert verifier.version == "not answered yet"


def test_the_projects_own_service_answers_the_same_call_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Client and service as they are, over a socket; a wrong token is an outage, as it cannot judge anything."""
    told = ScoreFailure(reason="no detector", outage=True)
    judge = FakeJudge(answer=lambda items: [told if item.prompt.text == "picture 1" else GOOD for item in items])
    monkeypatch.setenv("JUDGE_TOKEN", TOKEN)
    monkeypatch.setenv("WRONG_TOKEN", "another-token")
    prompts, images = [prompt(0, tag="counting"), prompt(1)], [picture(0), picture(1)]
    with live(RandomReward(), {"random": judge}) as service:
        verifier = HttpVerifier(HttpReward(remote=remote(service.url, token_env="JUDGE_TOKEN")))
        verdicts = [verifier.score(prompts, images) for _ in range(2)]
        stranger = HttpVerifier(HttpReward(remote=remote(service.url, token_env="WRONG_TOKEN")))
        [refused] = stranger.score(prompts[:1], images[:1])
        assert verifier.version
        assert verifier.bounds == (0.0, 1.0)
        verifier.close()
        stranger.close()
    assert verdicts == [[GOOD, told], [GOOD, told]]
    assert [item.prompt.text for item in judge.asked].count("picture 0") == 1
    assert isinstance(refused, ScoreFailure)
    assert refused.outage
    assert "HTTP 401" in refused.reason
