"""How a chain of text segments becomes the ids the model reads (BAGEL's layout: no chat template, no role names).

Every segment is wrapped: bos, its ids, eos. The reasoner continues an open bos; the painter and the learner read the same ids
closed by an eos, whether the thought sampled that eos or was cut before it.
"""

from collections.abc import Sequence
from typing import Protocol

from unigrpo.types import Given, Thought


class SpecialTokens(Protocol):
    """The ids that wrap a text segment; a BagelConfig has them."""

    @property
    def bos_token_id(self) -> int: ...
    @property
    def eos_token_id(self) -> int: ...


def segments_to_ids(segments: Sequence[Sequence[int]], tokens: SpecialTokens) -> list[int]:
    """Wrap and join text segments. Example: [[7, 8], [9]] -> [bos, 7, 8, eos, bos, 9, eos]."""
    return [token for segment in segments for token in (tokens.bos_token_id, *segment, tokens.eos_token_id)]


def reasoner_prompt_ids(given: Sequence[Given], tokens: SpecialTokens) -> list[int]:
    """What a reasoner continues: the texts given, wrapped, and the bos that opens the thought."""
    return [*segments_to_ids([span.token_ids for span in given], tokens), tokens.bos_token_id]


def close_thought(thought: Thought, eos: int) -> tuple[int, ...]:
    """A thought as a bare segment: its ids without the eos it sampled, which wrapping adds again (and adds to a truncated one).

    Raises ValueError when the truncated flag contradicts the last id.
    """
    ended = thought.token_ids[-1:] == (eos,)
    if ended == thought.truncated:
        raise ValueError(
            f"a thought is marked truncated={thought.truncated}, but its last id is {thought.token_ids[-1:]} and eos is {eos}; "
            "a thought ends with eos exactly when it is not truncated"
        )
    return thought.token_ids[:-1] if ended else thought.token_ids
