"""The probability of "yes" against "no" in a judge's first token, read from its log-probabilities."""

import math
from collections.abc import Mapping
from typing import Any

from reward_server.chat.completion import only_choice, shown

_TOP = 20
"""Most log-probabilities that OpenAI gives a token, and vLLM unless told otherwise."""
_LEAST_SHARE = 0.1
"""Of the first token's probability, what yes and no hold together. With less, nine tenths of the judge's answer is something
else, such as the start of a sentence, and the ratio of the two remnants says little about the picture."""
_TOLERANCE = 0.05
"""How far a word that the list leaves out may move the score. A server that lists one token would make every score 0 or 1."""
_ROUNDING = 1e-3
"""By how much the probabilities of a list may exceed 1: servers compute in bfloat16 and round."""


class YesProbability:
    """P(yes) / (P(yes) + P(no)), each summed over the tokens that spell it: in any case, with spaces around it or none."""

    request: Mapping[str, Any] = {"max_tokens": 1, "logprobs": True, "top_logprobs": _TOP}
    """One token, and the log-probabilities of those it could have been."""

    def read(self, content: bytes) -> float:
        """The score in a completion.

        Raises ValueError, quoting the list, where log-probabilities are missing, positive or not finite, together more than 1,
        where neither word is in the list, where both hold less than _LEAST_SHARE, or where the one that is not in it could
        move the score by more than _TOLERANCE.
        """
        top = _top_tokens(only_choice(content, endings=("stop", "length")))
        listed = sum(probability for _, probability in top)
        if listed > 1 + _ROUNDING:
            raise ValueError(f"the tokens' probabilities add up to {listed:.4f}: {shown(top)}")
        yes, no = (sum(probability for token, probability in top if _word(token) == word) for word in ("yes", "no"))
        if yes + no < _LEAST_SHARE:
            raise ValueError(f"yes and no hold {yes + no:.4f} of the answer, at least {_LEAST_SHARE} is needed: {shown(top)}")
        unlisted = min(max(0.0, 1 - listed), min(probability for _, probability in top))
        if min(yes, no) == 0 and unlisted / (yes + no + unlisted) > _TOLERANCE:
            raise ValueError(f"the list is too short to tell how likely {'yes' if yes == 0 else 'no'} is: {shown(top)}")
        return yes / (yes + no)


def _top_tokens(choice: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Token and probability, one for each that the answer's single token could have been."""
    logprobs = choice.get("logprobs")
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(tokens, list) or len(tokens) != 1 or not isinstance(tokens[0], dict):
        raise ValueError(f"the answer holds no log-probabilities of one token: {shown(logprobs)}")
    entries = tokens[0].get("top_logprobs")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"the answer's token has no list top_logprobs: {shown(tokens[0])}")
    return [_probability(entry) for entry in entries]


def _probability(entry: object) -> tuple[str, float]:
    match entry:
        case {"token": str(token), "logprob": int() | float() as logprob} if _is_log_probability(logprob):
            return token, math.exp(logprob)
    raise ValueError(f"{shown(entry)} is no token with a log-probability of 0 or less")


def _is_log_probability(value: float) -> bool:
    return not isinstance(value, bool) and -math.inf < value <= 0


def _word(token: str) -> str:
    """The bare word; Ġ and ▁ stand for a space where a server shows tokens as its vocabulary does."""
    return token.strip("Ġ▁ \t\r\n").lower()
