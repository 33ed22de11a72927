"""Shards are even, complete, balanced and the same every time."""

import pytest

from cluster.sharding import shard, split


@pytest.mark.parametrize(("num_samples", "num_ranks"), [(8, 1), (8, 2), (7, 3), (2, 4), (0, 2)])
def test_every_sample_is_on_one_rank_and_ranks_differ_by_one_at_most(num_samples: int, num_ranks: int) -> None:
    shards = shard([float(index % 5) for index in range(num_samples)], num_ranks)
    assert sorted(index for indices in shards for index in indices) == list(range(num_samples))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_costs_are_balanced() -> None:
    shards = shard([9.0, 1.0, 1.0, 1.0, 8.0, 2.0], 2)
    assert shards == [[0, 1, 2], [3, 4, 5]]  # 11 and 11


def test_one_rank_keeps_the_order() -> None:
    assert shard([3.0, 9.0, 1.0], 1) == [[0, 1, 2]]


def test_parts_are_contiguous_and_never_empty() -> None:
    assert split(range(5), 2) == [range(2), range(2, 5)]
    assert split(range(1), 2) == [range(1)]
