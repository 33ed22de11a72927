"""The body of a request, by hand."""

import base64
import json

from reward_server.chat.request import chat_body

PNG = b"\x89PNG\r\n\x1a\nnot really"


def test_the_body_by_hand() -> None:
    body = chat_body(model="judge", system="Judge.", question="Is it?", picture_png=PNG, form={"max_tokens": 1})
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert json.loads(body) == {
        "model": "judge",
        "messages": [
            {"role": "system", "content": "Judge."},
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "Is it?"}],
            },
        ],
        "temperature": 0,
        "seed": 0,
        "max_tokens": 1,
    }


def test_equal_questions_give_equal_bytes() -> None:
    first, second = (
        chat_body(model="judge", system="Judge.", question="é", picture_png=PNG, form={"max_tokens": 1, "logprobs": True})
        for _ in range(2)
    )
    assert first == second
    assert first.isascii()
