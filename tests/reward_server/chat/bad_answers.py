"""Answers that must never become a score, each with a part of the failure it must give."""

import json
from typing import Any

from tests.reward_server.chat.stub_judge import completion, top_logprobs


def body(answer: Any) -> bytes:
    return json.dumps(answer).encode()


def choice(**changes: Any) -> bytes:
    """A good answer but for some keys of its choice."""
    answer = completion('{"answer": "yes"}')
    answer["choices"][0].update(changes)
    return body(answer)


def without(*path: str | int) -> bytes:
    """A good answer but for one key."""
    answer = completion('{"answer": "yes"}')
    inner: Any = answer
    for step in path[:-1]:
        inner = inner[step]
    del inner[path[-1]]
    return body(answer)


def message(**changes: Any) -> bytes:
    return choice(message={"role": "assistant", "content": '{"answer": "yes"}', **changes})


GOOD = completion('{"answer": "yes"}')

BODIES: list[tuple[bytes, str]] = [
    (b"", "not JSON"),
    (b"yes", "not JSON"),
    (b"\xff\xfe\x00yes", "not UTF-8"),
    (body(GOOD)[:-9], "not JSON"),
    (body(GOOD) + body(GOOD), "not JSON"),
    (body(GOOD) + b" yes", "not JSON"),
    (b"\xef\xbb\xbf" + body(GOOD), "not JSON"),
    (json.dumps(GOOD).encode("utf-16"), "not UTF-8"),
    (b"<html><body>yes</body></html>", "not JSON"),
    (b"data: " + body(GOOD) + b"\n\ndata: [DONE]\n\n", "not JSON"),
    (b"[" * 100_000, "nested deeper"),
    (b'{"choices":' * 5000 + b"1" + b"}" * 5000, "nested deeper"),
    (b'{"created": ' + b"9" * 10_000 + b', "choices": []}', "64 bits"),
    (b'{"created": NaN, ' + body(GOOD)[1:], "NaN"),
    (b'{"created": 1e999, ' + body(GOOD)[1:], "finite"),
    (b'{"choices": [], ' + body(GOOD)[1:], "given twice"),
    (b'{"id": "\\ud800", "choices": []}', "surrogate"),
    (b"null", "no chat completion"),
    (b"true", "no chat completion"),
    (b"1.0", "no chat completion"),
    (body("yes"), "no chat completion"),
    (body([GOOD]), "no chat completion"),
    (body({"error": {"message": "overloaded", "code": 503}}), "no chat completion"),
    (without("choices"), "no chat completion"),
    (body({**GOOD, "choices": None}), "no chat completion"),
    (body({**GOOD, "choices": GOOD["choices"][0]}), "no chat completion"),
    (body({**GOOD, "choices": []}), "0 choices"),
    (body({**GOOD, "choices": GOOD["choices"] * 2}), "2 choices"),
    (body({**GOOD, "choices": [None]}), "not one object"),
    (body({**GOOD, "choices": ['{"answer": "yes"}']}), "not one object"),
    (without("choices", 0, "message"), "no message"),
    (choice(message=None), "no message"),
    (choice(message='{"answer": "yes"}'), "no message"),
    (choice(text='{"answer": "yes"}', message=[]), "no message"),
    (without("choices", 0, "finish_reason"), "ended with None"),
    (choice(finish_reason=None), "ended with None"),
    (choice(finish_reason="content_filter"), "content_filter"),
    (choice(finish_reason="tool_calls"), "tool_calls"),
    (choice(finish_reason="abort"), "abort"),
    (choice(finish_reason=["stop"]), "ended with"),
    (choice(finish_reason=True), "ended with True"),
    (message(refusal="I cannot judge this."), "refusal"),
    (message(refusal={"reason": ""}), "refusal"),
    (message(tool_calls=[{"type": "function", "function": {"name": "grade", "arguments": "{}"}}]), "tool_calls"),
    (message(function_call={"name": "grade", "arguments": "{}"}), "function_call"),
    (without("choices", 0, "message", "content"), "no text"),
    (message(content=None), "no text"),
    (message(content=""), "no text"),
    (message(content=1), "no text"),
    (message(content={"answer": "yes"}), "no text"),
    (message(content=[{"type": "text", "text": '{"answer": "yes"}'}]), "no text"),
    (message(content=None, reasoning='{"answer": "yes"}'), "no text"),
]
"""Bodies that hold no usable answer of any kind."""

YES_NO_TEXTS: list[tuple[str, str]] = [
    ("yes", "not JSON"),
    ("Yes.", "not JSON"),
    ("The picture fits, so yes.", "not JSON"),
    ('"yes"', "the key answer alone"),
    ("true", "the key answer alone"),
    ("1", "the key answer alone"),
    ("NaN", "NaN"),
    ("null", "the key answer alone"),
    ("{}", "the key answer alone"),
    ("[]", "the key answer alone"),
    ('["yes"]', "the key answer alone"),
    ('[{"answer": "yes"}]', "the key answer alone"),
    (" ", "not JSON"),
    ('{"answer": "Yes"}', "must be one of"),
    ('{"answer": "YES"}', "must be one of"),
    ('{"answer": "yes "}', "must be one of"),
    ('{"answer": "Yes "}', "must be one of"),
    ('{"answer": " no"}', "must be one of"),
    ('{"answer": "ｙｅｓ"}', "must be one of"),
    ('{"answer": "y\\u200bes"}', "must be one of"),
    ('{"answer": "maybe"}', "must be one of"),
    ('{"answer": ""}', "must be one of"),
    ('{"answer": "yes/no"}', "must be one of"),
    ('{"answer": true}', "must be one of"),
    ('{"answer": 1}', "must be one of"),
    ('{"answer": 1.0}', "must be one of"),
    ('{"answer": null}', "must be one of"),
    ('{"answer": ["yes"]}', "must be one of"),
    ('{"answer": {"answer": "yes"}}', "must be one of"),
    ('{"answer": NaN}', "NaN"),
    ('{"answer": Infinity}', "Infinity"),
    ('{"answer": yes}', "not JSON"),
    ("{'answer': 'yes'}", "not JSON"),
    ('{answer: "yes"}', "not JSON"),
    ('{"answer": "yes",}', "not JSON"),
    ('{"answer": "yes"', "not JSON"),
    ('{"Answer": "yes"}', "the key answer alone"),
    ('{"answer ": "yes"}', "the key answer alone"),
    ('{"verdict": "yes"}', "the key answer alone"),
    ('{"answer": "yes", "confidence": 0.9}', "the key answer alone"),
    ('{"answer": "yes", "answer": "no"}', "given twice"),
    ('{"answer": "yes", "answer": "yes"}', "given twice"),
    ('{"answer": "yes"} {"answer": "no"}', "not JSON"),
    ('{"answer": "yes"}{"answer": "yes"}', "not JSON"),
    ('{"answer": "yes"} because it fits', "not JSON"),
    ('Here it is: {"answer": "yes"}', "not JSON"),
    ('```json\n{"answer": "yes"}\n```', "not JSON"),
    ('<think>fits</think>{"answer": "yes"}', "not JSON"),
    ('{"answer": "yes"}\x00', "not JSON"),
    ('\ufeff{"answer": "yes"}', "not JSON"),
    ('{"answer": "yes"} // sure', "not JSON"),
    ('{"answer": "yes\n"}', "not JSON"),
    ('{"answer": "\\ud800"}', "surrogate"),
    ("[" * 5000, "nested deeper"),
    ('{"answer": ' * 100 + "1" + "}" * 100, "nested deeper"),
]
"""Contents of a message that are not exactly an object of yes or no."""

GRADE_TEXTS: list[tuple[str, str]] = [
    ("3", "the key grade alone"),
    ('{"grade": 0}', "must be one of"),
    ('{"grade": 6}', "must be one of"),
    ('{"grade": -1}', "must be one of"),
    ('{"grade": 3.5}', "must be one of"),
    ('{"grade": 3.0}', "must be one of"),
    ('{"grade": 3e0}', "must be one of"),
    ('{"grade": true}', "must be one of"),
    ('{"grade": false}', "must be one of"),
    ('{"grade": "3"}', "must be one of"),
    ('{"grade": "three"}', "must be one of"),
    ('{"grade": null}', "must be one of"),
    ('{"grade": [3]}', "must be one of"),
    ('{"grade": NaN}', "NaN"),
    ('{"grade": -Infinity}', "Infinity"),
    ('{"grade": 1e999}', "finite"),
    ('{"grade": ' + "9" * 5000 + "}", "64 bits"),
    ('{"grade": 9223372036854775807}', "must be one of"),
    ('{"grade": 03}', "not JSON"),
    ('{"grade": +3}', "not JSON"),
    ('{"grade": 3/5}', "not JSON"),
    ('{"grade": 3, "of": 5}', "the key grade alone"),
    ('{"answer": "yes"}', "the key grade alone"),
    ('{"grade": 3} out of 5', "not JSON"),
]
"""Contents of a message that are not exactly an object of a grade from 1 to 5."""

FLAT = [(letter, -3.0) for letter in "abcdefghijklmnopqrs"]
"""19 words that hold 0.946 of an answer together."""

LOGPROBS: list[tuple[Any, str]] = [
    (None, "no log-probabilities"),
    ({}, "no log-probabilities"),
    ([], "no log-probabilities"),
    ({"content": None}, "no log-probabilities"),
    ({"content": []}, "no log-probabilities"),
    ({"content": ["yes"]}, "no log-probabilities"),
    ({"content": top_logprobs(("yes", -0.1))["content"] * 2}, "no log-probabilities"),
    ({"tokens": ["yes"], "token_logprobs": [-0.1], "top_logprobs": [{"yes": -0.1}]}, "no log-probabilities"),
    ({"content": [{"token": "yes", "logprob": -0.1}]}, "no list"),
    ({"content": [{"token": "yes", "logprob": -0.1, "top_logprobs": []}]}, "no list"),
    ({"content": [{"token": "yes", "logprob": -0.1, "top_logprobs": None}]}, "no list"),
    ({"content": [{"token": "yes", "logprob": -0.1, "top_logprobs": {"yes": -0.1}}]}, "no list"),
    ({"content": [{"top_logprobs": ["yes"]}]}, "no token with a log-probability"),
    ({"content": [{"top_logprobs": [{"token": "yes"}]}]}, "no token with a log-probability"),
    ({"content": [{"top_logprobs": [{"logprob": -0.1}]}]}, "no token with a log-probability"),
    ({"content": [{"top_logprobs": [{"token": "yes", "logprob": None}]}]}, "no token with a log-probability"),
    ({"content": [{"top_logprobs": [{"token": "yes", "logprob": "-0.1"}]}]}, "no token with a log-probability"),
    ({"content": [{"top_logprobs": [{"token": "yes", "logprob": False}]}]}, "no token with a log-probability"),
    ({"content": [{"top_logprobs": [{"token": "yes", "logprob": [-0.1]}]}]}, "no token with a log-probability"),
    ({"content": [{"top_logprobs": [{"token": 7, "logprob": -0.1}]}]}, "no token with a log-probability"),
    ({"content": [{"top_logprobs": [{"token": None, "logprob": -0.1}]}]}, "no token with a log-probability"),
    (top_logprobs(("yes", -0.1), ("no", 0.1)), "no token with a log-probability"),
    (top_logprobs(("yes", 1.0)), "no token with a log-probability"),
    (top_logprobs(("yes", -0.1), ("the", 5e-324)), "no token with a log-probability"),
    (top_logprobs(("yes", float("nan")), ("no", -0.1)), "NaN"),
    (top_logprobs(("yes", -0.1), ("no", float("-inf"))), "Infinity"),
    (top_logprobs(("yes", -0.1), ("yes", -0.1)), "add up to 1.8"),
    (top_logprobs(("yes", -0.1), ("no", -0.5)), "add up to 1.5"),
    (top_logprobs(("The", -0.1), ("A", -3.0)), "yes and no hold 0.0000"),
    (top_logprobs(("yesterday", -0.1), ("not", -3.0)), "yes and no hold 0.0000"),
    (top_logprobs(("yes.", -0.1), ("**no**", -3.0)), "yes and no hold 0.0000"),
    (top_logprobs(("", -0.1), (" ", -3.0)), "yes and no hold 0.0000"),
    (top_logprobs(("The", -0.01), ("yes", -5.0), ("no", -6.0)), "yes and no hold 0.0092"),
    (top_logprobs(("yes", -9999.0), ("no", -9999.0)), "yes and no hold 0.0000"),
    (top_logprobs(("yes", -0.7)), "how likely no is"),
    (top_logprobs(("no", -0.7)), "how likely yes is"),
    (top_logprobs(("yes", -1.6), ("a", -1.6), ("b", -1.6), ("c", -1.6)), "how likely no is"),
    (top_logprobs(("yes", -3.0), *FLAT), "yes and no hold 0.0498"),
]
"""Log-probabilities of an answer from which no probability of yes can be had."""
