"""Every rule of the service that a caller can see, over HTTP."""

import html
import json
import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import pytest
import requests
import torch
from PIL import Image

from configs.reward import CombinedReward
from configs.reward_service import Limits
from configs.verifiers import GenevalReward, RandomReward
from reward_server.protocol import SCORE_PATH, Answer, encode_request, read_answer
from reward_server.server import RewardServer
from reward_server.service.batching import Batched
from reward_server.service.judges import EncodedItem, Unavailable
from reward_server.service.replica import JudgeReplica
from tests.reward_server.service.fakes import BLACK, GOOD, PROMPTS, TOKEN, FakeJudge, Live, drawn, live, noise
from unigrpo.pictures import decode_picture
from unigrpo.types import Prompt, Score, ScoreFailure

GENEVAL, RANDOM = GenevalReward(detector="shapes"), RandomReward()
AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}
ITEM = Prompt(index=0, text="x", metadata={})


def post(service: Live, prompts: Sequence[Prompt], images: Sequence[bytes], **headers: str) -> requests.Response:
    body, content_type = encode_request(prompts, images)
    given = AUTHORIZATION | {"Content-Type": content_type} | {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.post(service.url + SCORE_PATH, body, headers=given, timeout=30)


def scored(service: Live, prompts: Sequence[Prompt], images: Sequence[bytes], **headers: str) -> Answer:
    response = post(service, prompts, images, **headers)
    assert response.status_code == 200, response.text
    return read_answer(response.content, len(images))


def get(service: Live, path: str, *, token: bool = True) -> requests.Response:
    return requests.get(service.url + path, headers=AUTHORIZATION if token else {}, timeout=30)


def test_verdicts_are_the_verifiers_own_in_order() -> None:
    prompts = PROMPTS[:6]
    images = [drawn(prompt) for prompt in prompts]
    images[2] = images[3]
    expected = RewardServer(GENEVAL).score(prompts, [decode_picture(image) for image in images])
    assert len({verdict.value for verdict in expected if isinstance(verdict, Score)}) > 1
    with live(GENEVAL, {"geneval": JudgeReplica(GENEVAL, Limits())}) as service:
        answer = scored(service, prompts, images)
    assert answer == Answer(version=RewardServer(GENEVAL).version, bounds=(0.0, 1.0), verdicts=expected)


def test_a_prompt_that_cannot_be_judged_fails_alone() -> None:
    with live(GENEVAL, {"geneval": JudgeReplica(GENEVAL, Limits())}) as service:
        first, second = scored(service, [ITEM, PROMPTS[0]], [BLACK, drawn(PROMPTS[0])]).verdicts
    assert isinstance(first, ScoreFailure)
    assert "metadata lacks" in first.reason
    assert isinstance(second, Score)


def test_webp_is_a_picture_too() -> None:
    buffer = BytesIO()
    Image.open(BytesIO(noise(3))).save(buffer, format="WEBP", lossless=True)
    files = [
        ("request", (None, json.dumps({"protocol": "unigrpo-reward/1", "items": [{"prompt": "x"}]}), "application/json")),
        ("image", ("x.webp", buffer.getvalue(), "image/webp")),
    ]
    with live(RANDOM, {"random": JudgeReplica(RANDOM, Limits())}) as service:
        answer = requests.post(service.url + SCORE_PATH, files=files, headers=AUTHORIZATION, timeout=30).content  # type: ignore[arg-type]
        assert read_answer(answer, 1) == scored(service, [ITEM], [noise(3)])


def test_a_combined_reward_asks_every_part_and_adds_weighted_scores() -> None:
    reward = CombinedReward(parts={"a": RANDOM, "b": RANDOM}, weights={"a": 2.0, "b": -0.5})
    judges = {"a": FakeJudge(), "b": FakeJudge(lambda items: [Score(value=1.0, breakdown={"why": "so"})] * len(items))}
    with live(reward, judges) as service:
        answer = scored(service, [ITEM] * 2, [noise(0), noise(1)])
        judges["b"].answer = lambda items: [ScoreFailure(reason="no", outage=True)] * len(items)
        [failed] = scored(service, [ITEM], [noise(2)]).verdicts
        told = get(service, "/v1/info").json()
    [score, _] = answer.verdicts
    assert score == Score(value=0.5, breakdown={"a": 0.5, "a/part": 0.5, "a/reason": "as told", "b": 1.0, "b/why": "so"})
    assert answer.bounds == (-0.5, 2.0)
    assert failed == ScoreFailure(reason="b: no", outage=True)
    assert told == {"protocol": "unigrpo-reward/1", "kind": "combined", "version": answer.version, "bounds": [-0.5, 2.0]}
    assert len(judges["a"].asked) == len(judges["b"].asked) == 3


def test_nothing_is_judged_twice() -> None:
    judge = FakeJudge()
    with live(RANDOM, {"random": judge}) as service:
        first = scored(service, [ITEM] * 3, [noise(0), noise(1), noise(0)], Idempotency_Key="k")
        assert scored(service, [ITEM] * 3, [noise(0), noise(1), noise(0)], Idempotency_Key="k") == first
        scored(service, [ITEM], [noise(1)])
        other = post(service, [ITEM], [noise(2)], Idempotency_Key="k")
        scored(service, [Prompt(index=0, text="y", metadata={})], [noise(1)])
        counters = get(service, "/metrics").text
    assert [each.image for each in judge.asked] == [noise(0), noise(1), noise(1)]
    assert other.status_code == 422
    assert "Idempotency-Key" in other.json()["error"]
    for source, number in {"judged": 3, "cached": 4, "shared": 1, "failed": 0}.items():
        assert f'unigrpo_reward_verdicts_total{{source="{source}",verifier="random"}} {number}.0' in counters


def test_equal_requests_at_the_same_time_share_one_judgement() -> None:
    judge = FakeJudge(gate=threading.Event())
    with live(RANDOM, {"random": judge}) as service, ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(scored, service, [ITEM], [noise(0)], Idempotency_Key="k") for _ in range(8)]
        while 'source="shared",verifier="random"} 7.0' not in get(service, "/metrics").text:
            time.sleep(0.01)
        assert judge.gate is not None
        judge.gate.set()
        assert {answer.result().verdicts[0].value for answer in answers} == {0.5}  # type: ignore[union-attr]
    assert len(judge.asked) == 1


@pytest.mark.parametrize(
    ("answer", "quoted"),
    [
        (lambda items: [Score(value=math.nan, breakdown={})] * len(items), "nan"),
        (lambda items: [Score(value=math.inf, breakdown={})] * len(items), "inf"),
        (lambda items: [Score(value=1.01, breakdown={})] * len(items), "1.01"),
        (lambda items: [Score(value=-0.01, breakdown={})] * len(items), "-0.01"),
        (lambda items: [Score(value=True, breakdown={})] * len(items), "True"),
        (lambda items: [Score(value="1", breakdown={})] * len(items), "'1'"),  # type: ignore[arg-type]
        (lambda items: [Score(value=0.5, breakdown={"a": math.nan})] * len(items), "nan"),
        (lambda items: [Score(value=0.5, breakdown={"a": None})] * len(items), "None"),  # type: ignore[dict-item]
        (lambda items: [0.5] * len(items), "0.5"),
        (lambda items: [None] * len(items), "None"),
        (lambda items: [GOOD], "1 verdicts for 2"),
        (lambda items: [GOOD] * 3, "3 verdicts for 2"),
        (lambda items: [], "0 verdicts for 2"),
    ],
)
def test_what_is_no_score_is_a_failure_that_quotes_it(answer: Callable[[Sequence[EncodedItem]], Any], quoted: str) -> None:
    judge = FakeJudge(answer)
    with live(RANDOM, {"random": judge}) as service:
        for verdict in scored(service, [ITEM] * 2, [noise(0), noise(1)]).verdicts:
            assert isinstance(verdict, ScoreFailure)
            assert not verdict.outage
            assert quoted in verdict.reason
        judge.answer = lambda items: [GOOD] * len(items)
        assert scored(service, [ITEM] * 2, [noise(0), noise(1)]).verdicts == [GOOD, GOOD]


def test_a_judge_that_breaks_is_a_fault_without_a_word_of_its_inside() -> None:
    def broken(items: Sequence[EncodedItem]) -> Any:
        raise RuntimeError("the secret of /etc/passwd")

    judge = FakeJudge(broken)
    with live(RANDOM, {"random": judge}) as service:
        response = post(service, [ITEM], [BLACK])
        assert (response.status_code, response.json()) == (500, {"error": "the service failed; its log says why"})
        judge.answer = lambda items: [GOOD]
        assert scored(service, [ITEM], [BLACK]).verdicts == [GOOD]


def test_a_verdict_that_comes_late_is_an_outage_and_then_remembered() -> None:
    judge = FakeJudge(seconds=0.5)
    batched = Batched(judge, batch_size=4, max_calls=1, patience=0.3, timeout=10)
    with live(RANDOM, {"random": batched}, request_timeout=0.3) as service:
        verdicts = [scored(service, [ITEM], [BLACK]).verdicts[0] for _ in range(4)]
    assert verdicts == [ScoreFailure(reason="no verdict came in time; ask again", outage=True), GOOD, GOOD, GOOD]
    assert len(judge.asked) == 1


def test_without_judges_it_is_alive_but_not_ready() -> None:
    judge = FakeJudge(ready=False)
    with live(RANDOM, {"random": judge}) as service:
        assert get(service, "/healthz", token=False).json() == {"status": "alive"}
        for response in (get(service, "/readyz", token=False), get(service, "/v1/info"), post(service, [ITEM], [BLACK])):
            assert response.status_code == 503
            assert response.headers["Retry-After"] == "2"
        judge.ready = True
        assert get(service, "/readyz", token=False).json() == {"status": "ready"}
        judge.answer = _unavailable
        assert post(service, [ITEM], [BLACK]).status_code == 503


def _unavailable(items: Sequence[EncodedItem]) -> Any:
    raise Unavailable("the queue is full")


def test_more_requests_than_may_wait_are_told_to_come_back() -> None:
    judge = FakeJudge(gate=threading.Event())
    assert judge.gate is not None
    with live(RANDOM, {"random": judge}, limits=Limits(waiting_requests=1)) as service, ThreadPoolExecutor(1) as pool:
        first = pool.submit(scored, service, [ITEM], [noise(0)])
        while not judge.asked:
            time.sleep(0.01)
        second = post(service, [ITEM], [noise(1)])
        judge.gate.set()
        assert first.result().verdicts == [GOOD]
        assert (second.status_code, second.headers["Retry-After"]) == (503, "2")
        assert scored(service, [ITEM], [noise(1)]).verdicts == [GOOD]


def test_the_token_opens_everything_but_the_probes_and_the_page() -> None:
    with live(RANDOM, {"random": FakeJudge()}) as service:
        for path in ("/v1/info", "/openapi.json", "/metrics", "/nowhere"):
            refused = get(service, path, token=False)
            assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert get(service, path).status_code == (404 if path == "/nowhere" else 200)
        for path in ("/healthz", "/readyz", "/docs"):
            assert get(service, path, token=False).status_code == 200
    with live(RANDOM, {"random": FakeJudge()}, token=None) as service:
        assert get(service, "/v1/info", token=False).status_code == 200


def test_openapi_describes_the_form() -> None:
    with live(RANDOM, {"random": FakeJudge()}) as service:
        document = get(service, "/openapi.json").json()
    operation = document["paths"][SCORE_PATH]["post"]
    form = operation["requestBody"]["content"]["multipart/form-data"]
    assert form["encoding"] == {
        "request": {"contentType": "application/json"},
        "image": {"contentType": "image/png, image/webp"},
    }
    assert form["schema"]["required"] == ["request", "image"]
    assert set(operation["responses"]) == {"200", "400", "401", "408", "411", "413", "415", "422", "503"}
    assert [parameter["name"] for parameter in operation["parameters"]] == ["Idempotency-Key"]
    schemas = document["components"]["schemas"]
    assert {"ScoreRequest", "RequestItem", "ScoreAnswer", "ErrorAnswer", "Info"} <= set(schemas)
    assert set(_references(document)) <= {f"#/components/schemas/{name}" for name in schemas}
    assert document["security"] == [{"bearer": []}]


def test_the_page_needs_no_network() -> None:
    with live(RANDOM, {"random": FakeJudge()}) as service:
        shown = get(service, "/docs", token=False)
        document = get(service, "/openapi.json").json()
    assert shown.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in shown.headers["Content-Security-Policy"]
    assert re.findall(r"<script|<link|<img|src=|href=|https?://|url\(", shown.text) == []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert f"<h2>{method.upper()} {path}</h2>" in shown.text
            assert all(f"<b>{status}</b>" in shown.text for status in operation["responses"])
    written = [json.loads(html.unescape(found)) for found in re.findall(r"<pre>(.*?)</pre>", shown.text, re.DOTALL)]
    assert all(schema in written for schema in document["components"]["schemas"].values())


def _references(document: Any) -> list[str]:
    if isinstance(document, dict):
        own = [document["$ref"]] if "$ref" in document else []
        return own + [found for value in document.values() for found in _references(value)]
    return [found for value in document for found in _references(value)] if isinstance(document, list) else []


def test_counters_say_what_happened() -> None:
    with live(RANDOM, {"random": FakeJudge(lambda items: [GOOD, ScoreFailure(reason="no")][: len(items)])}) as service:
        scored(service, [ITEM] * 2, [noise(0), noise(1)])
        requests.post(service.url + SCORE_PATH, timeout=30)
        counters = get(service, "/metrics").text
    body, _ = encode_request([ITEM] * 2, [noise(0), noise(1)])
    for line in (
        'unigrpo_reward_requests_total{status="200"} 1.0',
        'unigrpo_reward_requests_total{status="401"} 1.0',
        'unigrpo_reward_items_total{outcome="scored"} 1.0',
        'unigrpo_reward_items_total{outcome="failed"} 1.0',
        'unigrpo_reward_verdicts_total{source="failed",verifier="random"} 1.0',
        f"unigrpo_reward_body_bytes_total {float(len(body))}",
        "unigrpo_reward_requests_in_flight 0.0",
        "unigrpo_reward_request_seconds_count 2.0",
    ):
        assert line in counters


@pytest.mark.parametrize("size", [200, 400])
def test_bytes_on_the_wire(size: int) -> None:
    picture = noise(0, size)
    assert len(picture) >= 100_000
    with live(RANDOM, {"random": FakeJudge()}) as service:
        response = post(service, [PROMPTS[0]] * 4, [picture] * 4)
    sent = response.request
    assert isinstance(sent.body, bytes)
    head = sum(len(name) + len(value) + 4 for name, value in sent.headers.items())
    assert len(sent.body) + head + len(response.content) <= 1.05 * 4 * len(picture)
    assert torch.is_tensor(decode_picture(picture))
