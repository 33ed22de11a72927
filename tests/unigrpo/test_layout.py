from types import SimpleNamespace

import pytest

from unigrpo.layout import close_thought, reasoner_prompt_ids, segments_to_ids
from unigrpo.types import Given, Thought

TOKENS = SimpleNamespace(bos_token_id=100, eos_token_id=101)


def thought(token_ids: tuple[int, ...], *, truncated: bool) -> Thought:
    return Thought(token_ids=token_ids, behavior_logp=(0.0,) * len(token_ids), truncated=truncated, policy_version=0)


def test_every_segment_is_wrapped() -> None:
    assert segments_to_ids([[7, 8], (), [9]], TOKENS) == [100, 7, 8, 101, 100, 101, 100, 9, 101]


def test_the_reasoner_continues_an_open_segment() -> None:
    assert reasoner_prompt_ids([Given(token_ids=(1,)), Given(token_ids=(2, 3))], TOKENS) == [100, 1, 101, 100, 2, 3, 101, 100]


@pytest.mark.parametrize(("sampled", "truncated"), [((5, 6, 101), False), ((5, 6), True)])
def test_the_painter_reads_the_same_ids_whether_eos_was_sampled_or_not(sampled: tuple[int, ...], truncated: bool) -> None:
    closed = close_thought(thought(sampled, truncated=truncated), TOKENS.eos_token_id)
    assert closed == (5, 6)
    assert [*reasoner_prompt_ids([Given(token_ids=(2,))], TOKENS), *closed, 101] == segments_to_ids([[2], closed], TOKENS)


def test_an_empty_thought_is_an_empty_segment() -> None:
    assert close_thought(thought((101,), truncated=False), TOKENS.eos_token_id) == ()


@pytest.mark.parametrize(("sampled", "truncated"), [((5, 101), True), ((5, 6), False)])
def test_a_flag_that_contradicts_the_ids_is_refused(sampled: tuple[int, ...], truncated: bool) -> None:
    with pytest.raises(ValueError, match="truncated"):
        close_thought(thought(sampled, truncated=truncated), TOKENS.eos_token_id)
