"""Attention over blocks, against softmax written out query by query.

Shapes: T packed tokens, N query heads, K key-value heads, D head dim, M keys that one query sees; the kernels take a leading 1.
"""

import random
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from unigrpo.models.bagel import attention
from unigrpo.models.bagel.attention import PADDING, Attend, Block, Tiled, Varlen, block_attention, has_varlen

CPU = torch.device("cpu")
SEEDS = range(6)
DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def random_blocks(seed: int) -> tuple[list[Block], int]:
    """Blocks of 1 to 12 queries whose places are shuffled, causal or not, some over a past of any places; and T."""
    generator = random.Random(seed)
    lengths = [generator.choice((1, 1, 2, 5, 12)) for _ in range(12)]
    places = list(range(sum(lengths)))
    generator.shuffle(places)
    blocks, start = [], 0
    for length in lengths:
        query = tuple(places[start : start + length])
        others = [place for place in places if place not in query]
        past = tuple(generator.sample(others, generator.choice((0, 0, 1, 9))))
        blocks.append(Block(query, (*past, *query), causal=generator.random() < 0.5))
        start += length
    return blocks, len(places)


def random_qkv(num_tokens: int, dtype: torch.dtype, num_heads: int = 6, num_kv_heads: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(num_tokens)
    return [
        torch.randn(1, num_tokens, heads, 8, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for heads in (num_heads, num_kv_heads, num_kv_heads)
    ]


def by_hand(blocks: Sequence[Block], q_1TND: Tensor, k_1TKD: Tensor, v_1TKD: Tensor) -> Tensor:
    q_TND, k_TKD, v_TKD = q_1TND[0], k_1TKD[0], v_1TKD[0]
    group = q_TND.shape[1] // k_TKD.shape[1]
    rows: dict[int, Tensor] = {}
    for block in blocks:
        for index, place in enumerate(block.query):
            hidden = len(block.query) - 1 - index if block.causal else 0
            seen = list(block.key[: len(block.key) - hidden])
            heads = []
            for head, q_D in enumerate(q_TND[place]):
                score_M = k_TKD[seen, head // group] @ q_D / q_D.shape[0] ** 0.5
                weight_M = score_M.exp() / score_M.exp().sum()
                heads.append(weight_M @ v_TKD[seen, head // group])
            rows[place] = torch.stack(heads)
    return torch.stack([rows[place] for place in range(len(rows))])[None]


def assert_same(attend: Attend, blocks: Sequence[Block], qkv: list[Tensor], tolerance: float) -> None:
    """Answers and gradients."""
    expected, found = by_hand(blocks, *qkv), attend(*qkv)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    pull = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0)).to(expected)
    gradients = [torch.autograd.grad((each * pull).sum(), qkv) for each in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def flash_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Tensor:
    """What FlashAttention says of itself: sequences lie end to end; a causal mask is aligned to the bottom right corner."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert enable_gqa == (query.shape[1] != key.shape[1])
    bounds = list(zip(pairwise(cu_seq_q.tolist()), pairwise(cu_seq_k.tolist()), strict=True))
    assert max_q == max(stop - start for (start, stop), _ in bounds)
    assert max_k == max(stop - start for _, (start, stop) in bounds)
    assert cu_seq_q[-1] == len(query)
    assert cu_seq_k[-1] == len(key) == len(value)
    times = query.shape[1] // key.shape[1]
    mixed = []
    for (q_start, q_stop), (k_start, k_stop) in bounds:
        k, v = (each[k_start:k_stop].repeat_interleave(times, 1) for each in (key, value))
        scores = torch.einsum("qnd,mnd->nqm", query[q_start:q_stop], k) / query.shape[2] ** 0.5
        if window_size == (-1, 0):
            ahead = (k_stop - k_start) - (q_stop - q_start)
            scores = scores + torch.full_like(scores[0], -torch.inf).triu(ahead + 1)
        else:
            assert window_size == (-1, -1)
        mixed.append(torch.einsum("nqm,mnd->qnd", scores.softmax(-1), v))
    return torch.cat(mixed)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_tiles_are_softmax_over_what_each_query_sees(seed: int, dtype: torch.dtype, tolerance: float) -> None:
    blocks, num_tokens = random_blocks(seed)
    assert_same(Tiled(blocks, CPU), blocks, random_qkv(num_tokens, dtype), tolerance)


@pytest.mark.parametrize("small_tile", [1, 40])
def test_how_blocks_are_tiled_changes_nothing(monkeypatch: pytest.MonkeyPatch, small_tile: int) -> None:
    monkeypatch.setattr(attention, "SMALL_TILE", small_tile)
    blocks, num_tokens = random_blocks(1)
    assert_same(Tiled(blocks, CPU), blocks, random_qkv(num_tokens, torch.float64), 1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_flash_attention_of_varied_lengths_is_the_same(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", flash_varlen)
    blocks, num_tokens = random_blocks(seed)
    assert_same(Varlen(blocks, CPU), blocks, random_qkv(num_tokens, torch.float64), 1e-12)


@pytest.mark.parametrize("kernel", [Tiled, Varlen])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("num_kv_heads", [1, 6])
def test_blocks_of_one_kind(
    monkeypatch: pytest.MonkeyPatch,
    kernel: Callable[[Sequence[Block], torch.device], Attend],
    causal: bool,
    num_kv_heads: int,
) -> None:
    """Nothing of the other kind, blocks without queries, one key-value head for all or one a query head."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", flash_varlen)
    blocks = [Block((), (3, 1), causal), Block((2, 0), (3, 2, 0), causal), Block((), (), causal), Block((3, 1), (3, 1), causal)]
    qkv = random_qkv(4, torch.float64, num_kv_heads=num_kv_heads)
    assert_same(kernel(blocks, CPU), blocks, qkv, 1e-12)


@pytest.mark.parametrize("small_tile", [1, 100, 10_000])
def test_a_tile_is_never_much_larger_than_its_blocks(monkeypatch: pytest.MonkeyPatch, small_tile: int) -> None:
    monkeypatch.setattr(attention, "SMALL_TILE", small_tile)
    generator = random.Random(0)
    for _ in range(50):
        sizes = [(int(generator.lognormvariate(2, 1)) + 1, generator.choice((0, 0, 7, 30))) for _ in range(20)]
        blocks = [
            Block(tuple(range(queries)), tuple(range(queries + past)), generator.random() < 0.5) for queries, past in sizes
        ]
        groups = list(attention._alike(blocks))
        assert sorted(map(id, blocks)) == sorted(id(block) for group in groups for block in group)
        for group in groups:
            longest = [max(block.size[side] for block in group) for side in (0, 1)]
            scores = sum(queries * keys for queries, keys in (block.size for block in group))
            assert len(group) == 1 or len(group) * longest[0] * longest[1] <= max(small_tile, PADDING * scores)


def test_blocks_of_one_length_share_a_call() -> None:
    blocks = [Block((4 * index, 4 * index + 1), tuple(range(4 * index, 4 * index + 4)), False) for index in range(40)]
    assert [len(group) for group in attention._alike(blocks)] == [40]


def test_the_lower_triangle_needs_no_mask() -> None:
    """SDPA's fastest causal kernels take none."""
    alone = [Block((0, 1, 2), (0, 1, 2), True), Block((3, 4), (3, 4), True)]
    [tile] = Tiled(alone, CPU)._tiles
    assert (tile.mask_B1QM, tile.is_causal) == (None, True)
    [tile] = Tiled([Block((0, 1), (2, 0, 1), False)], CPU)._tiles
    assert (tile.mask_B1QM, tile.is_causal) == (None, False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_cpu_has_no_flash_attention(dtype: torch.dtype) -> None:
    assert not has_varlen(CPU, dtype)
    assert isinstance(block_attention([Block((0,), (0,), True)], CPU, dtype), Tiled)


@pytest.mark.parametrize(
    ("capability", "dtype", "has"),
    [
        ((8, 0), torch.bfloat16, True),
        ((9, 0), torch.float16, True),
        ((7, 5), torch.float16, False),
        ((9, 0), torch.float32, False),
    ],
)
def test_gpus_have_it_from_ampere_on_in_half_precision(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype, has: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert has_varlen(torch.device("cuda"), dtype) is has
