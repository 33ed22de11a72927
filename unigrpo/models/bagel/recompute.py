"""Layers recomputed in the backward pass instead of kept, and parameters held out of a graph."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def recomputed(layer: nn.Module, *arguments: Any) -> Any:
    """The layer's outputs, bit-equal in value and gradient to those of a plain call, but nothing inside is kept.

    What was held out of the graph is held out again when it is recomputed, long after `held` has ended.
    """
    frozen = [parameter for parameter in layer.parameters() if not parameter.requires_grad]
    return checkpoint(layer, *arguments, use_reentrant=False, context_fn=lambda: (nullcontext(), _HeldEachTime(frozen)))


class _HeldEachTime:
    """`held`, for each of the times that one graph is gone through."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters

    def __enter__(self) -> None:
        self._current = held(self._parameters)
        self._current.__enter__()

    def __exit__(self, *fault: Any) -> None:
        self._current.__exit__(*fault)


@contextmanager
def held(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Build graphs that no gradient of these parameters can come out of."""
    frozen = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
