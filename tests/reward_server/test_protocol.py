"""The wire, both ways: what is written can be read, and nothing but that."""

import json
import math
from email import message_from_bytes
from typing import Any

import pytest

from reward_server.protocol import (
    PROTOCOL,
    Answer,
    encode_request,
    read_answer,
    read_request,
    write_answer,
)
from unigrpo.types import Prompt, Score, ScoreFailure

PROMPTS = [
    Prompt(index=4, text="three red circles", metadata={"tag": "counting", "include": [{"class": "circle", "count": 3}]}),
    Prompt(index=9, text='a sign "grün"\r\n--', metadata={}),
]
VERDICTS: list[Score | ScoreFailure] = [
    Score(value=0.25, breakdown={"graded": 0.25, "reason": "für"}),
    ScoreFailure(reason="the judge said maybe"),
    ScoreFailure(reason="no judge", outage=True),
]


def answer(**changes: Any) -> bytes:
    """A right answer about one picture, changed."""
    values = {"protocol": PROTOCOL, "version": "1", "bounds": [0, 1], "results": [{"value": 0.5, "breakdown": {}}]}
    return json.dumps({key: value for key, value in (values | changes).items() if value is not ...}).encode()


def test_a_request_is_a_form_that_another_library_reads() -> None:
    images = [b"\x89PNG\r\n\x1a\n first", b"\x00\xff\r\n--x\r\n"]
    body, content_type = encode_request(PROMPTS, images)
    form = message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    parts = form.get_payload()
    assert isinstance(parts, list)
    assert [part.get_param("name", header="content-disposition") for part in parts] == ["request", "image", "image"]  # type: ignore[union-attr]
    assert [part.get_content_type() for part in parts] == ["application/json", "image/png", "image/png"]  # type: ignore[union-attr]
    assert [part.get_payload(decode=True) for part in parts[1:]] == images  # type: ignore[union-attr]
    request = read_request(parts[0].get_payload(decode=True))  # type: ignore[union-attr, arg-type]
    assert [item.prompt for item in request.items] == [prompt.text for prompt in PROMPTS]
    assert [item.metadata for item in request.items] == [prompt.metadata for prompt in PROMPTS]


@pytest.mark.parametrize("num_images", [1, 8, 32])
def test_bytes_on_the_wire_are_few_more_than_those_of_the_pictures(num_images: int) -> None:
    images = [bytes(100_000)] * num_images
    body, content_type = encode_request([PROMPTS[0]] * num_images, images)
    assert len(body) + len(content_type) <= 1.05 * num_images * 100_000
    assert len(body) < num_images * (100_000 + 500)


@pytest.mark.parametrize(
    ("prompts", "images"),
    [([], []), (PROMPTS, [b""]), ([Prompt(index=0, text="", metadata={"a": math.nan})], [b""])],
)
def test_what_cannot_be_asked_is_not_sent(prompts: list[Prompt], images: list[bytes]) -> None:
    with pytest.raises(ValueError, match="prompt"):
        encode_request(prompts, images)


def test_metadata_that_is_no_json_is_named() -> None:
    with pytest.raises(ValueError, match=r"metadata of a prompt is not JSON.*set"):
        encode_request([Prompt(index=0, text="", metadata={"a": {1, 2}})], [b""])


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-math.inf, math.inf), (-2.5, math.inf)])
def test_an_answer_comes_back_as_it_was(bounds: tuple[float, float]) -> None:
    content = write_answer("abc", bounds, VERDICTS)
    assert read_answer(content, 3) == Answer(version="abc", bounds=bounds, verdicts=VERDICTS)


def test_half_a_surrogate_pair_of_a_judge_is_not_sent_on() -> None:
    [verdict] = read_answer(write_answer("1", (0, 1), [ScoreFailure(reason="bad \ud800")]), 1).verdicts
    assert verdict == ScoreFailure(reason="bad ?")


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_is_none_is_not_sent(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_answer("1", (0, 1), [Score(value=number, breakdown={})])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (answer()[:-5], "not JSON"),
        (answer().replace(b"0.5", b"NaN"), "NaN"),
        (answer().replace(b"0.5", b"Infinity"), "Infinity"),
        (answer().replace(b"0.5", b"1e999"), "1e999"),
        (answer().replace(b"0.5", b'0.5, "value": 0.6'), "'value' is given twice"),
        (answer(protocol="unigrpo-reward/2"), "'unigrpo-reward/2'; spoken here is 'unigrpo-reward/1'"),
        (answer(protocol=1), "protocol"),
        (answer(protocol=...), "protocol: Field required"),
        (answer(version=""), "version"),
        (answer(version=...), "version"),
        (answer(extra=1), "extra"),
        (answer(bounds=[0]), "bounds"),
        (answer(bounds=[1, 0]), "hold nothing"),
        (answer(bounds=["0", 1]), "bounds"),
        (answer(results=[]), "0 results for 1 pictures"),
        (answer(results=[{"value": 0.5, "breakdown": {}}] * 2), "2 results for 1 pictures"),
        (answer(results={"value": 0.5, "breakdown": {}}), "results"),
        (answer(results=[0.5]), "results"),
        (answer(results=[None]), "results"),
        (answer(results=[{"value": 1.5, "breakdown": {}}]), "1.5 is outside its bounds 0.0 to 1.0"),
        (answer(results=[{"value": -0.01, "breakdown": {}}]), "outside"),
        (answer(results=[{"value": True, "breakdown": {}}]), "results"),
        (answer(results=[{"value": "0.5", "breakdown": {}}]), "results"),
        (answer(results=[{"value": None, "breakdown": {}}]), "results"),
        (answer(results=[{"value": 0.5}]), "results"),
        (answer(results=[{"value": 0.5, "breakdown": {"a": None}}]), "results"),
        (answer(results=[{"value": 0.5, "breakdown": {"a": True}}]), "results"),
        (answer(results=[{"value": 0.5, "breakdown": {}, "failure": "x"}]), "results"),
        (answer(results=[{"failure": "x"}]), "results"),
        (answer(results=[{"failure": "x", "outage": 1}]), "results"),
        (answer(results=[{"failure": "x", "outage": False, "value": 0.5}]), "results"),
        (answer(results=[{}]), "results"),
    ],
)
def test_a_wrong_answer_is_refused_named_and_quoted(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        read_answer(content, 1)
    assert repr(content[:20].decode())[:-1] in str(caught.value)


def test_an_integer_is_a_number() -> None:
    assert read_answer(answer(results=[{"value": 1, "breakdown": {"a": 0}}]), 1).verdicts == [
        Score(value=1.0, breakdown={"a": 0.0})
    ]
