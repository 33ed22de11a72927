"""What transcriptions of objectives share: one sample at a time, through the model's own prefill, without packing."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.testing import assert_close

from learner.learner import Learner
from unigrpo.buckets import unpack
from unigrpo.layout import close_thought, segments_to_ids
from unigrpo.models.bagel.checkpoint import load_model
from unigrpo.models.bagel.model import Bagel, Context
from unigrpo.types import Given, Span, Thought


def context_of(policy: Bagel, spans: Sequence[Span]) -> Context:
    """After the texts among these spans, with gradient."""
    eos = policy.config.eos_token_id
    segments = [
        span.token_ids if isinstance(span, Given) else close_thought(span, eos)
        for span in spans
        if isinstance(span, Given | Thought)
    ]
    ids = torch.tensor([segments_to_ids(segments, policy.config)])
    return policy.prefill(ids, torch.tensor([ids.shape[1]]))[1]


def policy_of(learner: Learner, model: Path) -> Bagel:
    """A copy of the policy as it is now; `model` is the checkpoint folder it started from."""
    policy = load_model(model).model
    policy.load_state_dict({name: value for bucket in learner.publish(1) for name, value in unpack(bucket)}, strict=False)
    return policy


def first_gradient(learner: Learner) -> dict[str, Tensor]:
    """Of every trained parameter, after the first update of a new learner: a tenth of it is AdamW's first moment."""
    return {name: 10 * value.clone() for name, value in learner._engine.state("exp_avg")}


def own_gradient(policy: Bagel, loss: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Of these parameters, by autograd; zeros where the loss does not reach."""
    parameters = dict(policy.named_parameters())
    values = torch.autograd.grad(loss, [parameters[name] for name in names], allow_unused=True)
    return {
        name: torch.zeros_like(parameters[name]) if value is None else value for name, value in zip(names, values, strict=True)
    }


def assert_same_gradient(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Parameter by parameter, within float32's rounding of the largest."""
    largest = max(float(value.abs().max()) for value in expected.values())
    assert largest > 1e-4, "nothing to compare"
    assert_close(dict(got), dict(expected), rtol=1e-3, atol=1e-5 * largest)
