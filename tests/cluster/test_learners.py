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
    [(first, _), (_, advantage)] = chains_of(group, [0.5, -0.5])
    assert first == (Given(token_ids=(5, 6)), group.thoughts[0], Kept(group.trajectories[0], 0))
    assert advantage == -0.5


def test_a_given_picture_counts_and_travels_once_for_all_siblings_of_a_rank() -> None:
    rank: Any = FakeRank()
    plain, edit = fake_group(0, "counting", [1.0, 0.0]), fake_group(1, "counting", [1.0, 0.0])
    picture = Kept(fake_ref(), 50)
    edit = replace(edit, given=(picture, *edit.given))
    assert [num_tokens(spans) for spans, _ in chains_of(edit, [0.5, -0.5])] == [50 + 2 + 3] * 2
    LearnerGroup([rank], timeout=1.0, reward=RandomReward()).update(0, [plain, edit], mini_batches=2)
    _, mini_batches, *objects = rank.update.calls[0]
    spans = [span for batch in mini_batches for chain in batch.samples for span in unloaded(chain.spans, objects)]
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
        assert [batch.global_count for batch in mini_batches] == [4, 4]
        assert [len(batch.samples) for batch in mini_batches] == [2, 2]
        owners = {id(reference): group for group in groups for reference in group.trajectories}
        for batch in mini_batches:
            for chain in batch.samples:
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
    _, [batch], *_ = rank.update.calls[0]
    advantages = [sample.advantage for sample in batch.samples]
    assert advantages[:2] == [0.0, 0.0]
    assert advantages[2:] == pytest.approx([1.0, -1.0], abs=1e-5)


def test_no_group_left_ends_the_run() -> None:
    with pytest.raises(RuntimeError, match=r"every group of step 3 was dropped"):
        LearnerGroup([], timeout=1.0).update(3, [], mini_batches=1)
