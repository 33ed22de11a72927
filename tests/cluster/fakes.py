"""Judged groups made by hand, for code that reads what rollouts return."""

from typing import Any

from ray import ObjectRef

from cluster.rollouts import Group
from unigrpo.types import Given, Prompt, Score, Thought


def fake_group(index: int, tag: str, strict: list[float], *, tokens: int = 3) -> Group:
    """One prompt of a category whose siblings have these strict scores; graded is half of it, GenEval's one more."""
    return Group(
        prompt=Prompt(index=index, text=f"prompt {index}", metadata={"tag": tag, "prompt": f"prompt {index}"}),
        given=(Given(token_ids=(5, 6)),),
        thoughts=tuple(
            Thought(token_ids=tuple(range(tokens)), behavior_logp=(-1.0,) * tokens, truncated=bool(sibling), policy_version=0)
            for sibling in range(len(strict))
        ),
        scores=tuple(
            Score(value=value, breakdown={"strict": value, "graded": value / 2, "geneval": value + 1, "reason": ""})
            for value in strict
        ),
        paintings=fake_ref(),
        trajectories=tuple(fake_ref() for _ in strict),
    )


def fake_ref() -> ObjectRef:
    """A reference that nobody resolves."""
    reference: Any = object()
    return reference
