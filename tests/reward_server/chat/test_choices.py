"""Answers by schema: what is asked for, what is read, and all that is refused."""

import json
from itertools import count
from typing import Any

import pytest

from reward_server.chat.choices import YES_NO, grades
from tests.reward_server.chat.bad_answers import BODIES, GRADE_TEXTS, YES_NO_TEXTS, body, choice
from tests.reward_server.chat.stub_judge import completion


def test_the_schema_of_yes_and_no() -> None:
    assert YES_NO.request == {
        "max_tokens": 64,
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "name": "answer",
                "strict": True,
                "schema": {
                    "type": "object",
                    "properties": {"answer": {"type": "string", "enum": ["yes", "no"]}},
                    "required": ["answer"],
                    "additionalProperties": False,
                },
            },
        },
    }


def test_the_schema_of_grades() -> None:
    assert grades(3).request["response_format"]["json_schema"]["schema"] == {
        "type": "object",
        "properties": {"grade": {"type": "integer", "enum": [1, 2, 3]}},
        "required": ["grade"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize("text", ['{"answer": "no"}', ' {\n "answer"\t:\r"no" }\n', '{"\\u0061nswer": "\\u006eo"}'])
def test_the_object_is_read_however_it_is_spelt(text: str) -> None:
    assert YES_NO.read(body(completion(text))) == "no"


def test_keys_that_others_add_do_not_matter() -> None:
    answer: dict[str, Any] = completion('{"answer": "yes"}', reasoning='{"answer": "no"}', refusal="", tool_calls=[])
    assert YES_NO.read(body({**answer, "usage": {"total_tokens": 7}, "prompt_logprobs": None})) == "yes"


@pytest.mark.parametrize("grade", [1, 4, 10])
def test_a_grade_is_a_whole_number(grade: int) -> None:
    read = grades(10).read(body(completion(json.dumps({"grade": grade}))))
    assert read == grade
    assert type(read) is int


@pytest.mark.parametrize(("content", "failure"), [*BODIES, (choice(finish_reason="length"), "length")], ids=count())
def test_a_body_without_an_answer_is_refused(content: bytes, failure: str) -> None:
    with pytest.raises(ValueError, match=failure):
        YES_NO.read(content)


@pytest.mark.parametrize(("text", "failure"), YES_NO_TEXTS, ids=count())
def test_what_is_not_exactly_yes_or_no_is_refused_and_quoted(text: str, failure: str) -> None:
    with pytest.raises(ValueError, match=failure) as error:
        YES_NO.read(body(completion(text)))
    assert repr(text)[1:20] in str(error.value) or "surrogate" in failure


@pytest.mark.parametrize(("text", "failure"), GRADE_TEXTS, ids=count())
def test_what_is_not_exactly_a_grade_is_refused(text: str, failure: str) -> None:
    with pytest.raises(ValueError, match=failure):
        grades(5).read(body(completion(text)))


def test_a_long_answer_is_quoted_in_part() -> None:
    with pytest.raises(ValueError, match="more") as error:
        YES_NO.read(body(completion("yes " * 100_000)))
    assert len(str(error.value)) < 1000
