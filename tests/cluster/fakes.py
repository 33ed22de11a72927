"""Judged groups made by hand, for code that reads what rollouts return."""

from typing import Any

import torch
from ray import ObjectRef

from cluster.rollouts import Group
from unigrpo.types import Given, Painting, Prompt, Score, Thought


def fake_group(index: int, tag: str, strict: list[float], *, tokens: int = 3, num_thoughts: int | None = None) -> Group:
    """One prompt of a category whose siblings have these strict scores; graded is half of it, GenEval's one more.

    Each has a thought of its own, unless there are fewer, or none (0).
    """
    return Group(
        prompt=Prompt(index=index, text=f"prompt {index}", metadata={"tag": tag, "prompt": f"prompt {index}"}),
        given=(Given(token_ids=(5, 6)),),
        thoughts=tuple(
            Thought(token_ids=tuple(range(tokens)), behavior_logp=(-1.0,) * tokens, truncated=bool(sibling), policy_version=0)
            for sibling in range(len(strict) if num_thoughts is None else num_thoughts)
        ),
        scores=tuple(
            Score(value=value, breakdown={"strict": value, "graded": value / 2, "geneval": value + 1, "reason": ""})
            for value in strict
        ),
        paintings=fake_ref(),
        trajectories=tuple(fake_ref() for _ in strict),
    )


def fake_painting() -> Painting:
    """A small black picture."""
    picture = torch.zeros(4, 4, 3, dtype=torch.uint8)
    return Painting(image_HW3=picture, latent_LC=torch.empty(0, 0), velocity_rms=1.0, policy_version=0)


def fake_ref() -> ObjectRef:
    """A reference that nobody resolves."""
    reference: Any = object()
    return reference
