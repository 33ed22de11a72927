"""Which learner rank trains on which sample: even in number, balanced in cost, the same in every run."""

from collections.abc import Sequence
from itertools import pairwise


def shard(costs_S: Sequence[float], num_ranks: int) -> list[list[int]]:
    """Sample indices of each rank, in ascending order.

    Ranks differ by at most one sample; the costly ones go first, each to the rank with the least so far that has room.
    """
    room = [len(costs_S) // num_ranks + (rank < len(costs_S) % num_ranks) for rank in range(num_ranks)]
    shards: list[list[int]] = [[] for _ in range(num_ranks)]
    load = [0.0] * num_ranks
    for sample in sorted(range(len(costs_S)), key=lambda index: (-costs_S[index], index)):
        rank = min((r for r in range(num_ranks) if len(shards[r]) < room[r]), key=lambda r: (load[r], r))
        shards[rank].append(sample)
        load[rank] += costs_S[sample]
    return [sorted(indices) for indices in shards]


def split(items: Sequence[int], parts: int) -> list[Sequence[int]]:
    """Contiguous parts of `items`, as even as possible, the empty ones left out."""
    bounds = [len(items) * part // parts for part in range(parts + 1)]
    return [items[lo:hi] for lo, hi in pairwise(bounds) if hi > lo]
