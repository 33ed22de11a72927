"""What the learner's ranks are handed: whole groups to a mini-batch, every sample once, its own trajectory with it."""

from dataclasses import replace
from typing import Any

import pytest

from cluster.learners import LearnerGroup, chains_of, num_tokens
from cluster.spans import Kept, unloaded
from configs.verifiers import RandomReward
from tests.cluster.fakes import fake_group, fake_ref
from unigrpo.types import Given


class FakeVerb:
    """Stands for actor.update: keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def remote(self, *arguments: Any) -> object:
        self.calls.append(arguments)
        return object()


class FakeRank:
    def __init__(self) -> None:
        self.update = FakeVerb()


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.learners.wait_all", lambda calls, timeout: [{"loss": 1.0} for _ in calls])


def test_a_chain_is_what_was_given_thought_and_painted() -> None:
    group = fake_group(0, "counting", [1.0, 0.0])
    first, second = chains_of(group, [0.5, -0.5], [0.5, -0.5])
    assert first.spans == (Given(token_ids=(5, 6)), group.thoughts[0], Kept(group.trajectories[0], 0))
    assert (first.prompt, first.advantages, second.advantages) == ("prompt 0", (0.5, 0.5), (-0.5, -0.5))


def test_a_thought_that_is_painted_several_times_is_one_chain() -> None:
    group = fake_group(0, "counting", [1.0, 0.0, 0.5, 0.25], num_thoughts=2)
    first, second = chains_of(group, [1.0, -1.0], [0.1, 0.2, 0.3, 0.4])
    a, b, c, d = (Kept(trajectory, 0) for trajectory in group.trajectories)
    assert first.spans == (*group.given, group.thoughts[0], a, b)
    assert second.spans == (*group.given, group.thoughts[1], c, d)
    assert (first.advantages, second.advantages) == ((1.0, 0.1, 0.2), (-1.0, 0.3, 0.4))


def test_chains_without_thoughts_and_chains_of_thoughts_alone() -> None:
    plain = fake_group(0, "counting", [1.0, 0.0], num_thoughts=0)
    chains = chains_of(plain, [0.5, -0.5], [0.5, -0.5])
    assert [chain.spans for chain in chains] == [(*plain.given, Kept(trajectory, 0)) for trajectory in plain.trajectories]
    assert [chain.advantages for chain in chains] == [(0.5,), (-0.5,)]
    unpainted = replace(fake_group(0, "counting", [1.0, 0.0, 1.0, 0.0], num_thoughts=2), trajectories=())
    chains = chains_of(unpainted, [0.5, -0.5], [1.0, -1.0, 1.0, -1.0])
    assert [chain.spans for chain in chains] == [(*unpainted.given, thought) for thought in unpainted.thoughts]
    assert [chain.advantages for chain in chains] == [(0.5,), (-0.5,)]


def test_a_given_picture_counts_and_travels_once_for_all_siblings_of_a_rank() -> None:
    rank: Any = FakeRank()
    plain, edit = fake_group(0, "counting", [1.0, 0.0]), fake_group(1, "counting", [1.0, 0.0])
    picture = Kept(fake_ref(), 50)
    edit = replace(edit, given=(picture, *edit.given))
    assert [num_tokens(chain.spans) for chain in chains_of(edit, [0.5, -0.5], [0.5, -0.5])] == [50 + 2 + 3] * 2
    LearnerGroup([rank], timeout=1.0, reward=RandomReward()).update(0, [plain, edit], mini_batches=2)
    _, mini_batches, *objects = rank.update.calls[0]
    spans = [span for chains in mini_batches for chain in chains for span in unloaded(chain.spans, objects)]
    assert spans.count(picture.ref) == 2
    assert len(objects) == len(set(objects)) == 4 + 1


def test_groups_stay_whole_and_samples_are_shared_among_ranks() -> None:
    ranks: list[Any] = [FakeRank(), FakeRank()]
    groups = [fake_group(index, "counting", [1.0, 0.0]) for index in range(4)]
    learner = LearnerGroup(ranks, timeout=1.0, reward=RandomReward())
    assert learner.update(7, groups, mini_batches=2) == {"loss": 1.0}
    seen: list[int] = []
    for rank in ranks:
        [(step, mini_batches, *objects)] = rank.update.calls
        assert step == 7
        assert [len(chains) for chains in mini_batches] == [2, 2]
        owners = {id(reference): group for group in groups for reference in group.trajectories}
        for chains in mini_batches:
            for chain in chains:
                _, thought, reference = unloaded(chain.spans, objects)
                group = owners[id(reference)]
                assert thought is group.thoughts[group.trajectories.index(reference)]
                seen.append(id(reference))
    assert len(seen) == len(set(seen)) == 8


def test_equal_rewards_are_no_advantage_and_others_are_centred() -> None:
    rank: Any = FakeRank()
    LearnerGroup([rank], timeout=1.0, reward=RandomReward()).update(
        0, [fake_group(0, "counting", [1.0, 1.0]), fake_group(1, "counting", [3.0, 1.0])], mini_batches=1
    )
    _, [chains], *_ = rank.update.calls[0]
    advantages = [chain.advantages for chain in chains]
    assert advantages[:2] == [(0.0, 0.0)] * 2
    assert advantages[2:] == [pytest.approx((each, each), abs=1e-5) for each in (1.0, -1.0)]


def test_thoughts_and_their_paintings_are_credited_apart() -> None:
    """Thoughts earn 3/4 and 1/4 on average; their paintings deviate by 1/4, and by 1/4."""
    rank: Any = FakeRank()
    group = fake_group(0, "counting", [0.5, 1.0, 0.0, 0.5], num_thoughts=2)
    LearnerGroup([rank], timeout=1.0, reward=RandomReward()).update(0, [group], mini_batches=1)
    _, [chains], *_ = rank.update.calls[0]
    expected = [(1.0, -1.0, 1.0), (-1.0, -1.0, 1.0)]
    assert [chain.advantages for chain in chains] == [pytest.approx(each, abs=1e-5) for each in expected]


def test_no_group_left_ends_the_run() -> None:
    with pytest.raises(RuntimeError, match=r"every group of step 3 was dropped"):
        LearnerGroup([], timeout=1.0).update(3, [], mini_batches=1)
