"""A chat completion as it comes back: one choice that ended as it should, or an error that quotes it."""

from collections.abc import Collection
from typing import Any

from reward_server.remote.quoting import quoted
from reward_server.strict_json import parse_json

_QUOTED = 300
"""Characters of a wrong answer that an error quotes."""


def only_choice(content: bytes, *, endings: Collection[str]) -> dict[str, Any]:
    """The single choice of a completion, which holds a `message` with a text that is not empty.

    Raises ValueError for anything that is no completion, another number of choices, a finish_reason that is not one of
    `endings`, a refusal, a call of a tool, and a text that is missing or empty.
    """
    completion = parse_json(content)
    choices = completion.get("choices") if isinstance(completion, dict) else None
    if not isinstance(choices, list):
        raise ValueError(f"the answer is no chat completion: {shown(completion)}")
    if len(choices) != 1 or not isinstance(choices[0], dict):
        raise ValueError(f"the completion has {len(choices)} choices, not one object: {shown(choices)}")
    choice: dict[str, Any] = choices[0]
    message = choice.get("message")
    if not isinstance(message, dict):
        raise ValueError(f"the choice has no message: {shown(choice)}")
    ending = choice.get("finish_reason")
    if not isinstance(ending, str) or ending not in endings:
        raise ValueError(f"the answer ended with {shown(ending)}, not with {' or '.join(endings)}: {shown(message)}")
    for key in ("refusal", "tool_calls", "function_call"):
        if message.get(key) not in (None, "", []):
            raise ValueError(f"the judge answered with a {key}: {shown(message)}")
    text = message.get("content")
    if not isinstance(text, str) or not text:
        raise ValueError(f"the message holds no text: {shown(message)}")
    return choice


def shown(value: object) -> str:
    """The beginning of a value, for an error's message."""
    return quoted(repr(value), limit=_QUOTED)
