"""What a batch of samples has said so far, as keys and values: prefilled once, read by every token and denoising step after it.

Shapes: S samples, T tokens (right-padded), K key-value heads, D head dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from unigrpo.models.bagel.attention import Attend, Mix, masked_attention


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

    def attends(self, mask_S1QT: Tensor | None) -> list["Continued"]:
        """Attention of Q new tokens to this context and to each other, one a layer; masked_attention says what a mask may be.

        mask [S, 1, Q or 1, T + Q]; None needs an empty context.
        """
        num_queries = 0 if mask_S1QT is None else mask_S1QT.shape[3] - self.valid_ST.shape[1]
        mix = masked_attention(mask_S1QT, num_queries, self.valid_ST.device, self.k[0].dtype)
        return [Continued(k, v, mix) for k, v in zip(self.k, self.v, strict=True)]

    def select(self, index_N: Tensor) -> "Context":
        """The samples with these indices, in this order."""
        return Context(
            k=tuple(k.index_select(0, index_N) for k in self.k),
            v=tuple(v.index_select(0, index_N) for v in self.v),
            valid_ST=self.valid_ST.index_select(0, index_N),
            position_S=self.position_S.index_select(0, index_N),
        )


class Continued:
    """Attention that goes on from cached keys and values; afterwards `k` and `v` hold these and the new ones."""

    def __init__(self, k_SKTD: Tensor, v_SKTD: Tensor, mix: Mix) -> None:
        self.k, self.v, self._mix = k_SKTD, v_SKTD, mix

    def __call__(self, q_STND: Tensor, k_STKD: Tensor, v_STKD: Tensor) -> Tensor:
        q, k, v = (each.transpose(1, 2) for each in (q_STND, k_STKD, v_STKD))
        if self.k.shape[2]:
            k, v = torch.cat((self.k, k), 2), torch.cat((self.v, v), 2)
        self.k, self.v = k, v
        return self._mix(q, k, v).transpose(1, 2)


class Growing:
    """A context that siblings continue, a token each at a time, without gradients.

    New keys and values are written into room kept for them, so that no token copies what was said before it.
    """

    def __init__(self, context: Context, *, siblings: int, room: int) -> None:
        """Every sample `siblings` times in a row, each with room for so many more tokens."""
        self._k = [_with_room(k, siblings, room) for k in context.k]
        self._v = [_with_room(v, siblings, room) for v in context.v]
        self._valid_ST = F.pad(context.valid_ST.repeat_interleave(siblings, 0), (0, room), value=True)
        self._position_S = context.position_S.repeat_interleave(siblings)
        self._length = context.valid_ST.shape[1]

    def next_token(self) -> tuple[Tensor, list["Written"]]:
        """RoPE position [S, 1] of one more token of every sample, and its attention, one a layer."""
        position_S1, at = self._position_S[:, None], self._length
        self._position_S, self._length = self._position_S + 1, at + 1
        mask_S11T = self._valid_ST[:, None, None, : at + 1]
        mix = masked_attention(mask_S11T, 1, mask_S11T.device, self._k[0].dtype)
        return position_S1, [Written(k, v, at, mix) for k, v in zip(self._k, self._v, strict=True)]

    def keep(self, index_N: Tensor) -> None:
        """Go on with the samples of these indices alone."""
        for layer in range(len(self._k)):  # one after the other, so that only one is held twice
            self._k[layer] = self._k[layer].index_select(0, index_N)
            self._v[layer] = self._v[layer].index_select(0, index_N)
        self._valid_ST = self._valid_ST.index_select(0, index_N)
        self._position_S = self._position_S.index_select(0, index_N)


class Written:
    """Attention of one token a sample, whose keys and values are written behind those before it."""

    def __init__(self, k_SKTD: Tensor, v_SKTD: Tensor, at: int, mix: Mix) -> None:
        self._k_SKTD, self._v_SKTD, self._at, self._mix = k_SKTD, v_SKTD, at, mix

    def __call__(self, q_S1ND: Tensor, k_S1KD: Tensor, v_S1KD: Tensor) -> Tensor:
        self._k_SKTD[:, :, self._at], self._v_SKTD[:, :, self._at] = k_S1KD[:, 0], v_S1KD[:, 0]
        k, v = (each[:, :, : self._at + 1] for each in (self._k_SKTD, self._v_SKTD))
        return self._mix(q_S1ND.transpose(1, 2), k, v).transpose(1, 2)


def _with_room(past_SKTD: Tensor, siblings: int, room: int) -> Tensor:
    num_samples, num_heads, length, head_dim = past_SKTD.shape
    roomy = past_SKTD.new_empty(num_samples, siblings, num_heads, length + room, head_dim)
    roomy[:, :, :, :length] = past_SKTD[:, None]
    return roomy.flatten(0, 1)


class Remembered:
    """Attention over a packed row that remembers the keys and values it saw, [S, T, K, D]."""

    k: Tensor
    v: Tensor

    def __init__(self, attend: Attend) -> None:
        self._attend = attend

    def __call__(self, q_STND: Tensor, k_STKD: Tensor, v_STKD: Tensor) -> Tensor:
        self.k, self.v = k_STKD, v_STKD
        return self._attend(q_STND, k_STKD, v_STKD)


def gathered(remembered: Sequence[Remembered], places_S: Sequence[Sequence[int]], position_S: Sequence[int]) -> Context:
    """The context of samples whose tokens stand at these places of a packed row, padded to the longest."""
    device = remembered[0].k.device
    length = max(map(len, places_S))
    place_ST = torch.tensor([[*places, *[0] * (length - len(places))] for places in places_S], device=device)
    length_S1 = torch.tensor([[len(places)] for places in places_S], device=device)

    def rows(packed_1TKD: Tensor) -> Tensor:
        return packed_1TKD[0][place_ST].transpose(1, 2)

    return Context(
        k=tuple(rows(each.k) for each in remembered),
        v=tuple(rows(each.v) for each in remembered),
        valid_ST=torch.arange(length, device=device) < length_S1,
        position_S=torch.tensor(position_S, device=device),
    )
