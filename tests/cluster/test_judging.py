"""Groups before judges on a real Ray: what is asked again, dropped or waited for, and that no failure becomes a number."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster import judging
from cluster.faults import Unscored
from cluster.judging import Judges
from cluster.pool import drive
from configs.reward import CombinedReward, Reward
from configs.verifiers import Judge, OcrReward, RandomReward
from reward_server.server import Judgement, Tally
from unigrpo.types import Prompt, Score, ScoreFailure

OUT, WRONG = ScoreFailure(reason="connection refused", outage=True), ScoreFailure(reason="answered 'maybe'")
PROMPT = Prompt(index=0, text="a circle", metadata={})


class FakeActor:
    """A reward actor whose judge is not built from anything."""

    def start(self, judge: Judge) -> None:
        """Nothing to build."""


class FakeJudge(FakeActor):
    """Fails sibling p for the first `failing[p]` times it is asked, with the failure given; its scores are `base` + p."""

    def become(self, base: float, failing: dict[int, tuple[int, ScoreFailure]]) -> None:
        """Start over as another one: an actor takes seconds to start."""
        self._base, self._failing = base, failing
        self._asked: list[list[int]] = []

    def judge(self, prompt: Prompt, paintings: Sequence[Any], places: Sequence[int]) -> Judgement:
        earlier = [place for places in self._asked for place in places]
        self._asked.append(list(places))
        verdicts: list[Score | ScoreFailure] = []
        for place in places:
            times, failure = self._failing.get(place, (0, OUT))
            fails = earlier.count(place) < times
            verdicts.append(failure if fails else Score(value=self._base + place, breakdown={"x": 1.0}))
        asked = Tally(asked=len(places), failed=sum(isinstance(each, ScoreFailure) for each in verdicts))
        return Judgement(verdicts=tuple(verdicts), asked=asked, version=f"v{self._base:g}")

    def asked(self) -> list[list[int]]:
        return self._asked


class FakeMortalJudge(FakeActor):
    """Dies of every group."""

    def judge(self, *_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


ACTORS: list[Any] = []


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ACTORS.extend(ray.remote(FakeJudge).options(num_cpus=0).remote() for _ in range(2))
    yield
    ACTORS.clear()
    ray.shutdown()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "FIRST_PAUSE", 0.05)


def worker(failing: dict[int, tuple[int, ScoreFailure]] | None = None, *, base: float = 0.0, which: int = 0) -> Any:
    ray.get(ACTORS[which].become.remote(base, failing or {}))
    return ACTORS[which]


def judges_of(reward: Reward, **workers: Any) -> tuple[Judges, list[str]]:
    told: list[str] = []
    return Judges(role="reward", reward=reward, workers={name: [each] for name, each in workers.items()}, say=told.append), told


def outcome(judges: Judges, num_groups: int = 1) -> list[list[float]]:
    """The scores of each group that was judged to its end."""
    results: list[list[float]] = []
    for number in range(num_groups):
        judges.judge(
            f"scores of prompt {number}", PROMPT, ray.put([]), 3, lambda scores: results.append([s.value for s in scores])
        )
    drive(list(judges.pools.values()), timeout=30)
    return results


def test_only_what_failed_is_asked_again() -> None:
    judge = worker(failing={1: (1, WRONG)})
    judges, told = judges_of(RandomReward(), random=judge)
    assert outcome(judges) == [[0.0, 1.0, 2.0]]
    assert ray.get(judge.asked.remote()) == [[0, 1, 2], [1]]
    assert (judges.tally.asked, judges.tally.failed, judges.tally.retried, judges.tally.dropped) == (4, 1, 1, 0)
    assert told == []


def test_a_wrong_answer_that_stays_wrong_drops_its_group_alone() -> None:
    judge = worker(failing={2: (3, WRONG)})
    judges, told = judges_of(RandomReward(max_retries=1), random=judge)
    assert outcome(judges, num_groups=2) == [[0.0, 1.0, 2.0]]
    assert judges.tally.dropped == 1
    assert told == ["dropped: scores of prompt 0 by reward: 1 of 3 pictures have no score, the first: answered 'maybe'"]


def test_an_outage_is_waited_for_and_told_once() -> None:
    judges, told = judges_of(RandomReward(max_retries=0), random=worker(failing=dict.fromkeys(range(3), (3, OUT))))
    assert outcome(judges) == [[0.0, 1.0, 2.0]]
    assert (judges.tally.asked, judges.tally.failed, judges.tally.retried, judges.tally.dropped) == (12, 9, 9, 0)
    assert len(told) == 2
    assert told[0].startswith(
        "paused: scores of prompt 0 by reward: no judge can be reached: connection refused; waiting 3600 s"
    )
    assert told[1] == "judges of reward answer again"


def test_groups_that_take_turns_share_the_clock_of_an_outage() -> None:
    judges, told = judges_of(RandomReward(outage_timeout=1.0), random=worker(dict.fromkeys(range(3), (1000, OUT))))
    started = time.monotonic()
    with pytest.raises(Unscored, match=r"outage_timeout of 1 s has passed"):
        outcome(judges, num_groups=6)
    assert time.monotonic() - started < 3.0
    assert len(told) == 1


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (
            RandomReward(outage="stop"),
            "prompt 0 by reward: no judge can be reached, and reward.outage is stop: connection refused",
        ),
        (
            RandomReward(outage_timeout=0.2),
            r"reward.outage_timeout of 0.2 s has passed: connection refused; bring the judges back",
        ),
    ],
)
def test_an_outage_ends_the_run_where_the_config_says_so(reward: Reward, message: str) -> None:
    judges, _ = judges_of(reward, random=worker(failing={0: (1000, OUT)}))
    with pytest.raises(Unscored, match=message):
        outcome(judges)


def test_an_outage_drops_the_group_where_the_config_says_so() -> None:
    judges, _ = judges_of(RandomReward(outage="drop"), random=worker(failing={0: (1, OUT)}))
    assert outcome(judges, num_groups=2) == [[0.0, 1.0, 2.0]]
    assert (judges.tally.dropped, judges.tally.retried) == (1, 0)


@pytest.mark.slow
def test_an_actor_that_dies_again_and_again_is_an_outage() -> None:
    mortal = ray.remote(FakeMortalJudge).options(num_cpus=0, max_restarts=-1).remote()
    judges, told = judges_of(RandomReward(outage="drop"), random=mortal)
    assert outcome(judges) == []
    assert judges.tally.dropped == 1
    assert "does not live through it: scores of prompt 0 by reward was lost with 4 workers of reward" in told[0]


def test_every_part_judges_and_its_failures_are_its_own() -> None:
    reward = CombinedReward(parts={"text": OcrReward(), "noise": RandomReward()}, weights={"text": 1.0, "noise": 10.0})
    text, noise = worker(), worker(failing={0: (1, WRONG)}, which=1)
    judges, _ = judges_of(reward, text=text, noise=noise)
    assert outcome(judges) == [[0.0, 11.0, 22.0]]
    assert ray.get(text.asked.remote()) == [[0, 1, 2]]
    assert ray.get(noise.asked.remote()) == [[0, 1, 2], [0]]
    assert [pool.role for pool in judges.pools.values()] == ["reward.parts.text", "reward.parts.noise"]


class FakeBrokenJudge(FakeActor):
    """Raises at every group of its first life, and judges in the next one."""

    def __init__(self, mark: str) -> None:
        self._broken, self._mark = not Path(mark).exists(), Path(mark)

    def judge(self, prompt: Prompt, paintings: Sequence[Any], places: Sequence[int]) -> Judgement:
        if not self._broken:
            scores = tuple(Score(value=float(place), breakdown={}) for place in places)
            return Judgement(verdicts=scores, asked=Tally(asked=len(places)), version="1")
        self._mark.touch()
        failed = Tally(asked=len(places), failed=len(places))
        return Judgement(verdicts=(WRONG,) * len(places), asked=failed, version="1", broken=True)


@pytest.mark.slow
def test_an_actor_whose_verifier_raised_is_started_again_before_it_takes_more(tmp_path: Path) -> None:
    broken = ray.remote(FakeBrokenJudge).options(num_cpus=0, max_restarts=-1).remote(str(tmp_path / "mark"))
    judges, _ = judges_of(RandomReward(max_retries=1), random=broken)
    assert outcome(judges, num_groups=4) == [[0.0, 1.0, 2.0]] * 4
    assert (judges.tally.failed, judges.tally.dropped) == (3, 0)


def test_a_verifier_of_another_version_is_told() -> None:
    judges, told = judges_of(RandomReward(), random=worker())
    outcome(judges)
    worker(base=1.0)
    outcome(judges)
    assert told == ["the verifier of reward changed from version v0 to v1: its scores may differ"]
    assert judges.versions == {"random": "v1"}


def test_a_group_that_one_part_gave_up_waits_for_no_other() -> None:
    reward = CombinedReward(
        parts={"text": OcrReward(), "noise": RandomReward()}, weights={"text": 1.0, "noise": 1.0}, max_retries=0
    )
    judges, told = judges_of(reward, text=worker({1: (9, WRONG)}), noise=worker({2: (10_000, OUT)}, which=1))
    assert outcome(judges) == []
    assert judges.tally.dropped == 1
    assert told[-1].startswith("dropped: scores of prompt 0 by reward.parts.text: 1 of 3 pictures have no score")


def test_a_part_that_fails_for_good_drops_the_group_once() -> None:
    reward = CombinedReward(
        parts={"text": OcrReward(), "noise": RandomReward()}, weights={"text": 1.0, "noise": 1.0}, max_retries=0
    )
    judges, _ = judges_of(reward, text=worker(failing={1: (9, WRONG)}), noise=worker(failing={2: (9, WRONG)}, which=1))
    assert outcome(judges) == []
    assert judges.tally.dropped == 1
