"""Attention over blocks, against softmax written out query by query.

Shapes: S samples, T packed tokens, N query heads, K key-value heads, D head dim, Q queries and M keys of a batch; packed tokens
have a leading 1.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unigrpo.models.fakes import flash_varlen
from unigrpo.models.bagel import attention
from unigrpo.models.bagel.attention import (
    PADDING,
    Attend,
    Block,
    Tiled,
    Unpadded,
    Varlen,
    block_attention,
    has_varlen,
    masked_attention,
    repeats_heads,
)

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


PAST_ST = torch.tensor([[1, 1, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)
"""What three samples said before, padding between and after."""


def batch_mask(past_ST: Tensor, num_queries: int, *, causal: bool) -> Tensor:
    own_QQ = torch.ones(num_queries, num_queries, dtype=torch.bool)
    rows = [[torch.cat((past_T, own_Q)) for own_Q in (own_QQ.tril() if causal else own_QQ[:1])] for past_T in past_ST]
    return torch.stack([torch.stack(row) for row in rows])[:, None]


def batch_blocks(past_ST: Tensor, num_queries: int, *, causal: bool) -> list[Block]:
    """The same, sample after sample in one row of queries and one of keys."""
    num_keys = past_ST.shape[1] + num_queries
    blocks = []
    for sample, past_T in enumerate(past_ST.tolist()):
        seen = [*(at for at, valid in enumerate(past_T) if valid), *range(len(past_T), num_keys)]
        query = tuple(range(sample * num_queries, (sample + 1) * num_queries))
        blocks.append(Block(query, tuple(sample * num_keys + at for at in seen), causal))
    return blocks


def batch_qkv(num_samples: int, num_queries: int, num_keys: int) -> list[Tensor]:
    """q [S, N, Q, D], k and v [S, K, M, D] as views of other orders, as layers hand them over."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(num_samples, length, heads, 8, generator=generator, dtype=torch.float64).transpose(1, 2).requires_grad_()
        for length, heads in ((num_queries, 6), (num_keys, 2), (num_keys, 2))
    ]


def in_a_row(x_SHTD: Tensor) -> Tensor:
    return x_SHTD.transpose(1, 2).flatten(0, 1)[None]


def assert_batch_is_by_hand(past_ST: Tensor, num_queries: int, *, causal: bool) -> None:
    num_samples, num_past = past_ST.shape
    qkv = batch_qkv(num_samples, num_queries, num_past + num_queries)
    mix = masked_attention(batch_mask(past_ST, num_queries, causal=causal), num_queries, CPU, torch.float64)
    expected = by_hand(batch_blocks(past_ST, num_queries, causal=causal), *map(in_a_row, qkv))
    found = in_a_row(mix(*qkv))
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12)
    pull = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = [torch.autograd.grad((each * pull).sum(), qkv) for each in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("flash", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("num_queries", [1, 4])
@pytest.mark.parametrize("samples", [slice(0, 3), slice(2, 3)], ids=["padded", "full"])
def test_a_batch_sees_what_its_mask_says(
    monkeypatch: pytest.MonkeyPatch, samples: slice, num_queries: int, causal: bool, flash: bool
) -> None:
    if flash:
        monkeypatch.setattr(attention, "has_varlen", lambda *_: True)
        monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", flash_varlen)
    assert_batch_is_by_hand(PAST_ST[samples], num_queries, causal=causal)


def test_a_batch_without_a_past_is_a_triangle() -> None:
    nothing_ST, qkv = PAST_ST[:, :0], batch_qkv(3, 4, 4)
    found = masked_attention(None, 4, CPU, torch.float64)(*qkv)
    expected = by_hand(batch_blocks(nothing_ST, 4, causal=True), *map(in_a_row, qkv))
    torch.testing.assert_close(in_a_row(found), expected, rtol=0.0, atol=1e-12)


def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor | None, bool, bool]]:
    """(mask, is_causal, enable_gqa) of every call of scaled_dot_product_attention from here on."""
    calls = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def recorded(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, is_causal: bool = False, enable_gqa: bool) -> Tensor:
        calls.append((mask, is_causal, enable_gqa))
        return kernel(q, k, v, mask, is_causal=is_causal, enable_gqa=enable_gqa)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    return calls


@pytest.mark.parametrize("dtype", DTYPES)
def test_full_batches_need_no_mask(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    calls = kernel_calls(monkeypatch)
    full_S1QM = batch_mask(PAST_ST[2:].expand(3, -1), 4, causal=False)
    q, k, v = (each.to(dtype) for each in batch_qkv(3, 4, 10))
    without = masked_attention(full_S1QM, 4, CPU, dtype)(q, k, v)
    assert calls == [(None, False, True)]
    assert torch.equal(without, torch.nn.functional.scaled_dot_product_attention(q, k, v, full_S1QM, enable_gqa=True))
    masked_attention(None, 4, CPU, dtype)(q, k[:, :, :4], v[:, :, :4])
    assert calls[-1] == (None, True, True)


def test_flash_attention_is_given_no_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "has_varlen", lambda *_: True)
    calls = kernel_calls(monkeypatch)
    kept: list[int] = []

    def flash(*args: Any, **options: Any) -> Tensor:
        kept.append(len(args[1]))
        return flash_varlen(*args, **options)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", flash)
    for causal in (False, True):
        mix = masked_attention(batch_mask(PAST_ST, 4, causal=causal), 4, CPU, torch.float64)
        assert isinstance(mix, Unpadded)
        mix(*batch_qkv(3, 4, 10))
    assert kept == [3 + 0 + 6 + 3 * 4] * 2
    assert not calls


def test_heads_are_copied_where_no_kernel_shares_them_under_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "repeats_heads", lambda *_: True)
    calls = kernel_calls(monkeypatch)
    assert_batch_is_by_hand(PAST_ST, 4, causal=False)
    blocks, num_tokens = random_blocks(3)
    assert_same(Tiled(blocks, CPU), blocks, random_qkv(num_tokens, torch.float64), 1e-12)
    assert len(calls) > 1
    assert not any(shares for _, _, shares in calls)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_cpu_has_no_flash_attention(dtype: torch.dtype) -> None:
    assert not has_varlen(CPU, dtype)
    assert not repeats_heads(CPU, dtype)
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
    assert repeats_heads(torch.device("cuda"), dtype) is not has
