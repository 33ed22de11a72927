"""The body of a chat-completions request (OpenAI's API, as vLLM and SGLang speak it too)."""

import base64
import json
from collections.abc import Mapping
from typing import Any

PATH = "/chat/completions"
"""Appended to an endpoint's base URL, such as http://127.0.0.1:8000/v1."""


def chat_body(*, model: str, system: str, question: str, picture_png: bytes, form: Mapping[str, Any]) -> bytes:
    """JSON of one question about one picture, answered greedily; equal arguments give equal bytes.

    `form` holds the keys that ask for a form of answer (choices.py, probability.py).
    """
    picture = "data:image/png;base64," + base64.b64encode(picture_png).decode()
    body = {
        "model": model,
        "messages": [
            {"role": "system", "content": system},
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": question}],
            },
        ],
        "temperature": 0,
        "seed": 0,
        **form,
    }
    return json.dumps(body).encode()
