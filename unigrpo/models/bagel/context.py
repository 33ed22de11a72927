"""What a batch of samples has said so far, as keys and values: prefilled once, read by every token and denoising step after it.

Shapes: S samples, T tokens (right-padded), K key-value heads, D head dim.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Context:
    """Cached keys and values of S samples. Example: 2 segments of 5 and 9 tokens -> k[layer] [2, K, 9, D], position_S [5, 9].

    Keys are normalised and rotated, values are raw. Nothing writes into a context: a longer one is a new one.
    """

    k: tuple[Tensor, ...]
    """Keys of each layer, [S, K, T, D]."""
    v: tuple[Tensor, ...]
    """Values of each layer, [S, K, T, D]."""
    valid_ST: Tensor
    """Bool: False marks padding, which nothing attends to. It may lie between segments, not only at the end."""
    position_S: Tensor
    """Int64: RoPE position of the next token; padding does not count, and an image block counts as one."""

    @classmethod
    def empty(
        cls, num_samples: int, *, num_layers: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> "Context":
        """Nothing said yet, T = 0."""
        nothing = torch.empty(num_samples, num_kv_heads, 0, head_dim, dtype=dtype, device=device)
        return cls(
            k=(nothing,) * num_layers,
            v=(nothing,) * num_layers,
            valid_ST=torch.empty(num_samples, 0, dtype=torch.bool, device=device),
            position_S=torch.zeros(num_samples, dtype=torch.int64, device=device),
        )

    def repeat(self, times: int) -> "Context":
        """Every sample `times` times in a row (S becomes S * times), as window steps or siblings of one thought need it."""
        return self._map(lambda tensor: tensor.repeat_interleave(times, 0))

    def select(self, index_N: Tensor) -> "Context":
        """The samples with these indices, in this order."""
        return self._map(lambda tensor: tensor.index_select(0, index_N))

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Context":
        return Context(
            k=tuple(change(k) for k in self.k),
            v=tuple(change(v) for v in self.v),
            valid_ST=change(self.valid_ST),
            position_S=change(self.position_S),
        )
