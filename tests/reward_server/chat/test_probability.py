"""The probability of yes against no: summed over spellings by hand, and refused where the list cannot tell it."""

from itertools import count
from math import exp, log
from typing import Any

import pytest

from reward_server.chat.probability import YesProbability
from tests.reward_server.chat.bad_answers import BODIES, FLAT, LOGPROBS, body, choice
from tests.reward_server.chat.stub_judge import completion, top_logprobs


def read(*tokens: tuple[str, float], ending: str = "length") -> float:
    """The score of an answer with these tokens and probabilities."""
    answer = completion(tokens[0][0], logprobs=top_logprobs(*[(token, log(p)) for token, p in tokens]))
    answer["choices"][0]["finish_reason"] = ending
    return YesProbability().read(body(answer))


def test_what_is_asked_for() -> None:
    assert YesProbability.request == {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}


@pytest.mark.parametrize("ending", ["length", "stop"])
def test_the_share_of_yes_in_both(ending: str) -> None:
    assert read(("yes", 0.6), ("no", 0.2), ("The", 0.2), ending=ending) == pytest.approx(0.6 / 0.8)
    assert read(("no", 0.6), ("yes", 0.2), ("The", 0.2), ending=ending) == pytest.approx(0.2 / 0.8)


def test_spellings_are_summed() -> None:
    yes = [
        ("yes", 0.1),
        (" yes", 0.1),
        ("Yes", 0.1),
        (" Yes", 0.1),
        ("YES", 0.05),
        ("Ġyes", 0.05),
        ("▁Yes", 0.05),
        ("yes\n", 0.05),
    ]
    no = [("no", 0.1), ("No", 0.1), (" NO", 0.05), ("ĠNo", 0.05)]
    others = [("not", 0.02), ("yes.", 0.02), ("yeah", 0.02), ("non", 0.02), ("nò", 0.01), ("ｙｅｓ", 0.01)]
    assert read(*yes, *no, *others) == pytest.approx(0.6 / 0.9)


def test_a_word_that_is_too_unlikely_to_be_listed_counts_nothing() -> None:
    assert read(("yes", 0.97), ("The", 0.02), ("It", 0.001)) == 1
    assert read(("no", 0.97), ("The", 0.02), ("It", 0.001)) == 0
    assert read(("no", 1.0)) == 0


def test_an_impossible_word_as_vllm_writes_it() -> None:
    answer = completion("no", logprobs=top_logprobs(("no", 0.0), ("yes", -9999.0)))
    assert YesProbability().read(body(answer)) == 0


def test_rounding_may_carry_a_list_over_one() -> None:
    assert read(("yes", 0.7503), ("no", 0.2501)) == pytest.approx(0.75, abs=1e-3)
    assert read(("yes", 0.98), ("the", 0.02), ("no", 1e-12)) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("content", "failure"), BODIES, ids=count())
def test_a_body_without_an_answer_is_refused(content: bytes, failure: str) -> None:
    with pytest.raises(ValueError, match=failure):
        YesProbability().read(content)


@pytest.mark.parametrize(("logprobs", "failure"), LOGPROBS, ids=count())
def test_lists_that_cannot_tell_are_refused(logprobs: Any, failure: str) -> None:
    with pytest.raises(ValueError, match=failure):
        YesProbability().read(body(completion("yes", logprobs=logprobs)))


def test_text_alone_is_no_probability() -> None:
    with pytest.raises(ValueError, match="no log-probabilities"):
        YesProbability().read(choice())


def test_the_flat_list_is_what_it_says() -> None:
    assert sum(exp(logprob) for _, logprob in FLAT) == pytest.approx(0.946, abs=1e-3)
