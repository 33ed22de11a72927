"""Gradient norms of a single loss, without touching what an engine accumulates."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def group_norms(loss: Tensor, groups: Mapping[str, Sequence[tuple[str, nn.Parameter]]]) -> dict[str, float]:
    """Norm of the loss's gradient in each group of named parameters; 0 where it does not reach. The graph stays usable."""
    if not loss.requires_grad:
        return dict.fromkeys(groups, 0.0)
    return {name: _norm(loss, [parameter for _, parameter in members]) for name, members in groups.items()}


def _norm(loss: Tensor, parameters: Sequence[nn.Parameter]) -> float:
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return sum(float(gradient.double().square().sum()) for gradient in gradients if gradient is not None) ** 0.5
