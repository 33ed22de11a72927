"""Attention over packed tokens: many sequences in one row, each query seeing the keys of its own block only; and over batches.

What sees what is a list of blocks, or a batch's mask. On GPUs that can, either runs through variable-length flash attention;
everywhere else through scaled_dot_product_attention, blocks of like lengths together in one call.

Shapes: S samples, T packed tokens, N query heads, K key-value heads, D head dim, B blocks of one tile, Q queries and M keys of
its longest or of a batch, E tokens of all blocks end to end.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

SMALL_TILE = 1 << 16
"""Scores (queries times keys) up to which one more call costs more than the padding it would save."""
PADDING = 1.2
"""How much larger than its blocks a tile may be beyond that."""


class Attend(Protocol):
    """Softmax attention as a layer needs it; which keys a query may see is the implementation's business."""

    def __call__(self, q_STND: Tensor, k_STKD: Tensor, v_STKD: Tensor) -> Tensor:
        """[S, T, N, D] mixed values."""
        ...


Mix = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q_SNQD, k_SKMD, v_SKMD) -> [S, N, Q, D]."""


@dataclass(frozen=True, slots=True)
class Block:
    """Queries that see the same keys. Example: 3 tokens of text after 2 -> query (2, 3, 4), key (0, 1, 2, 3, 4), causal."""

    query: tuple[int, ...]
    """Places in the packed row; every place stands in exactly one block's query."""
    key: tuple[int, ...]
    """Places in the packed row. Of a causal block its own queries come last, in their order."""
    causal: bool
    """Whether the i-th of n queries is blind to the last n - 1 - i keys."""

    @property
    def size(self) -> tuple[int, int]:
        """Queries and keys."""
        return len(self.query), len(self.key)


def block_attention(blocks: Sequence[Block], device: torch.device, dtype: torch.dtype) -> Attend:
    """The kernel for blocks that this device has for this dtype."""
    return Varlen(blocks, device) if has_varlen(device, dtype) else Tiled(blocks, device)


def masked_attention(mask_S1QM: Tensor | None, num_queries: int, device: torch.device, dtype: torch.dtype) -> Mix:
    """The kernel for a batch that this device has for this dtype.

    mask [S, 1, Q or 1, M] is True where a query may see a key: with one row all see the same; with Q the queries' own keys come
    last, and each is blind to those after its own. None is causal without any key before.
    """
    if mask_S1QM is None:
        return partial(grouped_attention, mask=None, is_causal=True)
    if mask_S1QM.all():
        return partial(grouped_attention, mask=None, is_causal=False)
    if has_varlen(device, dtype):
        return Unpadded(mask_S1QM, num_queries)
    return partial(grouped_attention, mask=mask_S1QM, is_causal=False)


def grouped_attention(q_SNQD: Tensor, k_SKMD: Tensor, v_SKMD: Tensor, *, mask: Tensor | None, is_causal: bool) -> Tensor:
    """scaled_dot_product_attention of query heads that share key-value heads, [S, N, Q, D]."""
    times = q_SNQD.shape[1] // k_SKMD.shape[1]
    if times > 1 and repeats_heads(q_SNQD.device, q_SNQD.dtype):
        k_SKMD, v_SKMD = (each.repeat_interleave(times, 1) for each in (k_SKMD, v_SKMD))
        times = 1
    return F.scaled_dot_product_attention(q_SNQD, k_SKMD, v_SKMD, mask, is_causal=is_causal, enable_gqa=times > 1)


def repeats_heads(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether each query head needs a copy of its own.

    A GPU without flash attention has but one kernel that shares heads, and it holds all scores.
    """
    return device.type == "cuda" and not has_varlen(device, dtype)


def has_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether variable-length flash attention runs here: half precision on a GPU of compute capability 8 or more."""
    half = dtype in (torch.bfloat16, torch.float16)
    return device.type == "cuda" and half and torch.cuda.get_device_capability(device) >= (8, 0)


def kernel_name(device: torch.device, dtype: torch.dtype) -> str:
    """Which of the two that is, for logs."""
    return "variable-length flash attention" if has_varlen(device, dtype) else "scaled_dot_product_attention"


def device_name(device: torch.device) -> str:
    """Of what computes, for logs."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


class Tiled:
    """Blocks padded together into tiles of scaled_dot_product_attention."""

    def __init__(self, blocks: Sequence[Block], device: torch.device) -> None:
        self._tiles = [Tile.of(group, device) for group in _alike([block for block in blocks if block.query])]
        order_T = torch.cat([tile.query_BQ[tile.real_BQ] for tile in self._tiles])
        self._place_T = torch.empty_like(order_T).scatter_(0, order_T, torch.arange(len(order_T), device=device))

    def __call__(self, q_STND: Tensor, k_STKD: Tensor, v_STKD: Tensor) -> Tensor:
        mixed_TND = torch.cat([tile(q_STND[0], k_STKD[0], v_STKD[0]) for tile in self._tiles])
        return mixed_TND.index_select(0, self._place_T)[None]


@dataclass(frozen=True, slots=True)
class Tile:
    """Blocks of like lengths, run in one call."""

    query_BQ: Tensor
    """Places, 0 at padding."""
    real_BQ: Tensor
    """Bool, False at padding."""
    key_BM: Tensor
    """Places, 0 at padding."""
    mask_B1QM: Tensor | None
    """What each query may see; None for everything, or for what is_causal says."""
    is_causal: bool
    """Whether the mask is the lower triangle alone."""

    @classmethod
    def of(cls, blocks: Sequence[Block], device: torch.device) -> "Tile":
        """Pad the blocks to the longest."""
        query_BQ, real_BQ = _padded([block.query for block in blocks])
        key_BM, seen_BM = _padded([block.key for block in blocks])
        triangle = blocks[0].causal and all(len(block.query) == len(block.key) for block in blocks)
        mask_B1QM: Tensor | None = None
        if not triangle and not (bool(seen_BM.all()) and not any(block.causal for block in blocks)):
            place_M, place_Q1 = torch.arange(key_BM.shape[1]), torch.arange(query_BQ.shape[1])[:, None]
            past_B11 = torch.tensor([len(block.key) - len(block.query) for block in blocks])[:, None, None]
            mask_BQM = seen_BM[:, None].expand(-1, query_BQ.shape[1], -1)
            if blocks[0].causal:
                mask_BQM = mask_BQM & (place_M <= place_Q1 + past_B11)
            mask_B1QM = mask_BQM[:, None].to(device)
        return cls(query_BQ.to(device), real_BQ.to(device), key_BM.to(device), mask_B1QM, triangle)

    def __call__(self, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> Tensor:
        """Mixed values of the real queries, block after block."""
        q, k, v = (
            each.index_select(0, at.flatten()).view(*at.shape, *each.shape[1:]).transpose(1, 2)
            for each, at in ((q_TND, self.query_BQ), (k_TKD, self.key_BM), (v_TKD, self.key_BM))
        )
        return grouped_attention(q, k, v, mask=self.mask_B1QM, is_causal=self.is_causal).transpose(1, 2)[self.real_BQ]


class Varlen:
    """Blocks end to end through variable-length flash attention: the causal ones in one call, the others in another."""

    def __init__(self, blocks: Sequence[Block], device: torch.device) -> None:
        kinds = [[block for block in blocks if block.query and block.causal is causal] for causal in (True, False)]
        self._calls = [_EndToEnd(kind, device) for kind in kinds if kind]
        order_T = torch.cat([call.query_E for call in self._calls])
        self._place_T = torch.empty_like(order_T).scatter_(0, order_T, torch.arange(len(order_T), device=device))

    def __call__(self, q_STND: Tensor, k_STKD: Tensor, v_STKD: Tensor) -> Tensor:
        mixed_TND = torch.cat([call(q_STND[0], k_STKD[0], v_STKD[0]) for call in self._calls])
        return mixed_TND.index_select(0, self._place_T)[None]


class Unpadded:
    """A batch with a mask through variable-length flash attention: each sample with the keys it sees, and no padding."""

    def __init__(self, mask_S1QM: Tensor, num_queries: int) -> None:
        seen_SM = mask_S1QM[:, 0, -1]  # the last query sees all that its sample sees
        self._kept = seen_SM.nonzero(as_tuple=True)
        lengths_M = seen_SM.sum(1).tolist()
        self._flash = _Flash([num_queries] * len(lengths_M), lengths_M, seen_SM.device, causal=mask_S1QM.shape[2] > 1)

    def __call__(self, q_SNQD: Tensor, k_SKMD: Tensor, v_SKMD: Tensor) -> Tensor:
        q_SQND, k_SMKD, v_SMKD = (each.transpose(1, 2) for each in (q_SNQD, k_SKMD, v_SKMD))
        mixed_END = self._flash(q_SQND.flatten(0, 1), k_SMKD[self._kept], v_SMKD[self._kept])
        return mixed_END.view(q_SQND.shape).transpose(1, 2)


class _EndToEnd:
    def __init__(self, blocks: Sequence[Block], device: torch.device) -> None:
        self.query_E = torch.tensor([place for block in blocks for place in block.query], device=device)
        self._key_E = torch.tensor([place for block in blocks for place in block.key], device=device)
        lengths_Q, lengths_M = ([block.size[side] for block in blocks] for side in (0, 1))
        self._flash = _Flash(lengths_Q, lengths_M, device, causal=blocks[0].causal)

    def __call__(self, q_TND: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> Tensor:
        return self._flash(
            q_TND.index_select(0, self.query_E), k_TKD.index_select(0, self._key_E), v_TKD.index_select(0, self._key_E)
        )


class _Flash:
    """Variable-length flash attention over sequences of these numbers of queries and keys, end to end."""

    def __init__(self, lengths_Q: Sequence[int], lengths_M: Sequence[int], device: torch.device, *, causal: bool) -> None:
        self._query_bounds, self._key_bounds = (
            torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device) for lengths in (lengths_Q, lengths_M)
        )
        self._max_query, self._max_key = max(lengths_Q), max(lengths_M)
        self._window = (-1, 0) if causal else (-1, -1)

    def __call__(self, q_END: Tensor, k_EKD: Tensor, v_EKD: Tensor) -> Tensor:
        from torch.nn.attention.varlen import varlen_attn

        mixed = varlen_attn(
            q_END,
            k_EKD,
            v_EKD,
            self._query_bounds,
            self._key_bounds,
            self._max_query,
            self._max_key,
            window_size=self._window,
            enable_gqa=q_END.shape[1] != k_EKD.shape[1],
        )
        assert isinstance(mixed, Tensor)
        return mixed


def _alike(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Blocks in groups that cost little padding: causal ones apart, those without a past apart, longest first."""

    def kind(block: Block) -> tuple[bool, bool]:
        return block.causal, block.causal and len(block.query) == len(block.key)

    group: list[Block] = []
    queries = keys = scores = 0
    for block in sorted(blocks, key=lambda block: (*kind(block), *block.size), reverse=True):
        queries, keys = max(queries, block.size[0]), max(keys, block.size[1])
        scores += block.size[0] * block.size[1]
        padded = (len(group) + 1) * queries * keys
        if group and (kind(block) != kind(group[0]) or padded > max(SMALL_TILE, PADDING * scores)):
            yield group
            group = []
            queries, keys = block.size
            scores = queries * keys
        group.append(block)
    if group:
        yield group


def _padded(places: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Places right-padded with 0 [B, longest], and where they are real."""
    padded = pad_sequence([torch.tensor(each, dtype=torch.int64) for each in places], batch_first=True)
    lengths_B1 = torch.tensor([len(each) for each in places])[:, None]
    return padded, torch.arange(padded.shape[1]) < lengths_B1
