"""Pictures are encoded while earlier ones are judged already, once for all questions about them."""

import json
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.verifiers import ExamReward
from reward_server.chat import picture
from reward_server.chat.picture import SharedPicture
from tests.reward_server.chat.stub_judge import Request, completion, picture_of, stub_judge, verdicts_of
from unigrpo.pictures import encode_png
from unigrpo.types import Prompt, Score

PICTURES = [torch.full((4, 6, 3), shade, dtype=torch.uint8) for shade in range(3)]
POINTS = ["It is red.", "It is round.", "It is small."]


def test_a_picture_is_encoded_once_and_forgotten_when_all_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Png(bytes):
        alive = made = 0

        def __init__(self, content: bytes) -> None:
            Png.made += 1
            Png.alive += 1

        def __del__(self) -> None:
            Png.alive -= 1

    monkeypatch.setattr(picture, "encode_png", lambda image: Png(encode_png(image)))
    shared = SharedPicture(PICTURES[1], num_questions=2)
    assert Png.made == 0
    assert shared.take() == encode_png(PICTURES[1])
    assert Png.alive == 1
    assert shared.take() == encode_png(PICTURES[1])
    assert (Png.made, Png.alive) == (1, 0)


def test_calls_begin_before_all_pictures_are_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, encoded = threading.Event(), []

    def late(image: Tensor) -> bytes:
        """The last picture is encoded when the judge has been asked about another one."""
        if torch.equal(image, PICTURES[2]) and not asked.wait(3.0):
            raise AssertionError("the judge waits for the last picture")
        encoded.append(int(image[0, 0, 0]))
        return encode_png(image)

    def answer(request: Request) -> bytes:
        asked.set()
        return json.dumps(completion('{"answer": "yes"}')).encode()

    monkeypatch.setattr(picture, "encode_png", late)
    metadata: dict[str, Any] = {"exam_points": POINTS}
    prompts = [Prompt(index=index, text="a", metadata=metadata) for index in range(3)]
    with stub_judge(answer) as judge:
        verdicts = verdicts_of(ExamReward(remote=judge.remote, model="stub"), prompts, PICTURES)
    assert all(isinstance(verdict, Score) and verdict.value == 1 for verdict in verdicts)
    assert sorted(encoded) == [0, 1, 2], "once a picture, not once a point"
    sent = sorted(picture_of(request) for request in judge.requests)
    assert sent == sorted(encode_png(image) for image in PICTURES for _ in POINTS)
