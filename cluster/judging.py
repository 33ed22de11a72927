"""Painted groups to scores: every verifier of a reward judges every picture, and a failure is never a number.

Verifiers have pools of actors of their own, so a slow one holds up no other. Of a group that is asked again only the pictures
without a score are; which policy holds when no answer can be had at all is the config's.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from cluster.faults import Unscored
from cluster.pool import Job, Pool
from cluster.roles import part_role
from configs.reward import Reward, parts_of
from configs.verifiers import Judge
from reward_server.combine import combine_verdicts
from reward_server.server import Judgement, Tally as Asked
from unigrpo.types import Prompt, Score, ScoreFailure

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds before judges that are out are asked again; doubled each time."""


@dataclass(kw_only=True)
class Tally:
    """What was asked of judges since the counting began, over all verifiers."""

    groups: int = 0
    """Groups asked for."""
    asked: int = 0
    """Verdicts on one picture by one verifier."""
    retried: int = 0
    """Of these, asked again; and calls to endpoints that a verifier repeated."""
    cached: int = 0
    """Of these, answered from memory."""
    failed: int = 0
    """Of these, answered with a failure."""
    dropped: int = 0
    """Groups given up."""

    def count(self, asked: Asked) -> None:
        """Add what one call was asked."""
        self.asked += asked.asked
        self.cached += asked.cached
        self.failed += asked.failed
        self.retried += asked.retried


@dataclass(kw_only=True, eq=False)
class Case:
    """One group before one verifier."""

    part: str
    """Name of the verifier in its reward."""
    name: str
    """For messages."""
    verdicts: list[Score | ScoreFailure | None]
    """By sibling; None was not asked yet."""
    job: Job | None = None
    """The question that waits or is being answered."""
    retries: int = 0
    """Times a wrong answer was asked again."""
    out_since: float | None = None
    """When it first had no answer (time.monotonic): others may have one while this one waits in vain."""
    pauses: int = 0
    """Times it was waited for judges that were out."""

    def open(self) -> list[int]:
        """Siblings without a score."""
        return [place for place, verdict in enumerate(self.verdicts) if not isinstance(verdict, Score)]

    def failures(self) -> list[ScoreFailure]:
        """What went wrong with each that failed."""
        return [verdict for verdict in self.verdicts if isinstance(verdict, ScoreFailure)]


@dataclass(kw_only=True)
class Outage:
    """The judges of one part cannot be reached."""

    since: float
    """time.monotonic."""
    told: float = -math.inf
    """When the user last was."""


@dataclass(kw_only=True, eq=False)
class Hearing:
    """One group before all verifiers."""

    name: str
    prompt: Prompt
    paintings: ObjectRef
    """list[Painting], one a sibling."""
    cases: Sequence[Case]
    done: Callable[[Sequence[Score]], None]
    ended: bool = False
    """A verifier gave up on it, so that no other needs to answer."""


@dataclass(kw_only=True, eq=False)
class Judges:
    """The judges of one reward."""

    role: str
    """The config section, for messages."""
    reward: Reward
    workers: Mapping[str, Sequence[ActorHandle]]
    """Reward actors of each part (configs.reward.parts_of)."""
    say: Callable[[str], None]
    """Tells the user."""
    tally: Tally = field(default_factory=Tally)
    versions: dict[str, str] = field(default_factory=dict)
    """Part -> version of its verifier, as it answered last. A change is told: it is another reward from then on."""
    pools: dict[str, Pool] = field(init=False)
    _out: dict[str, Outage] = field(init=False, default_factory=dict)
    """By part; ended by the first fresh score."""

    def __post_init__(self) -> None:
        parts = parts_of(self.reward)
        self.pools = {
            part: Pool(role=part_role(self.role, part, parts), workers=workers, revive=partial(_built, parts[part]))
            for part, workers in self.workers.items()
        }

    def judge(
        self,
        name: str,
        prompt: Prompt,
        paintings: ObjectRef,
        size: int,
        done: Callable[[Sequence[Score]], None],
    ) -> None:
        """Queue one group of `size` pictures; `done` takes its scores, and is never called for a group that is dropped.

        While the pools are driven, Unscored is raised where the policy is to end the run.
        """
        cases = [Case(part=part, name=f"{name} by {pool.role}", verdicts=[None] * size) for part, pool in self.pools.items()]
        hearing = Hearing(name=name, prompt=prompt, paintings=paintings, cases=cases, done=done)
        for case in cases:
            self._ask(hearing, case)

    def _ask(self, hearing: Hearing, case: Case, *, pause: float = 0.0) -> None:
        places, judge = case.open(), parts_of(self.reward)[case.part]
        calls = -(-len(places) // judge.call_size) if judge.call_size else 1

        def given_up(reason: str) -> None:
            failure = ScoreFailure(reason=f"the reward actor does not live through it: {reason}", outage=True)
            self.tally.count(Asked(asked=len(places), failed=len(places)))
            self._take(hearing, case, places, [failure] * len(places))

        def answered(judgement: Judgement) -> None:
            self._note(case.part, judgement)
            self._take(hearing, case, places, judgement.verdicts)

        case.job = Job(
            name=case.name,
            submit=lambda worker: [worker.judge.remote(hearing.prompt, hearing.paintings, places)],
            done=lambda refs: answered(ray.get(refs[0])),
            not_before=time.monotonic() + pause,
            restart_after=calls * judge.judge_timeout,
            restart_if=lambda judgement: bool(judgement.broken),
            given_up=given_up,
        )
        self.pools[case.part].add(case.job)

    def _note(self, part: str, judgement: Judgement) -> None:
        """Count an answer, and tell what it changes."""
        self.tally.count(judgement.asked)
        role, before = self.pools[part].role, self.versions.get(part, judgement.version)
        if judgement.version != before:
            self.say(f"the verifier of {role} changed from version {before} to {judgement.version}: its scores may differ")
        self.versions[part] = judgement.version
        asked = judgement.asked
        if asked.asked > asked.failed + asked.cached and self._out.pop(part, None) is not None:
            self.say(f"judges of {role} answer again")

    def _take(self, hearing: Hearing, case: Case, places: Sequence[int], answers: Sequence[Score | ScoreFailure]) -> None:
        """Enter answers, and go on: ask again, now or later, give the group up, or see that it is done."""
        for place, answer in zip(places, answers, strict=True):
            case.verdicts[place] = answer
        if hearing.ended:
            return
        failures = case.failures()
        outage = any(failure.outage for failure in failures)
        if not failures:
            self._close(hearing)
        elif outage and self.reward.outage != "drop":
            self.tally.retried += len(failures)
            self._ask(hearing, case, pause=self._pause(case, failures[0]))
        elif not outage and case.retries < self.reward.max_retries:
            case.retries += 1
            self.tally.retried += len(failures)
            self._ask(hearing, case)
        else:
            self._drop(hearing, case)

    def _close(self, hearing: Hearing) -> None:
        """Hand on the scores once every verifier has given all of its own."""
        if any(case.open() for case in hearing.cases):
            return
        scores = []
        for place in range(len(hearing.cases[0].verdicts)):
            given = {case.part: verdict for case in hearing.cases if (verdict := case.verdicts[place]) is not None}
            combined = combine_verdicts(self.reward, given)
            assert isinstance(combined, Score), "every part has scored it"
            scores.append(combined)
        hearing.done(scores)

    def _drop(self, hearing: Hearing, case: Case) -> None:
        hearing.ended = True
        for other in hearing.cases:
            if other.job is not None:
                self.pools[other.part].withdraw(other.job)
        self.tally.dropped += 1
        failed, size = case.failures(), len(case.verdicts)
        self.say(f"dropped: {case.name}: {len(failed)} of {size} pictures have no score, the first: {failed[0].reason}")

    def _pause(self, case: Case, failure: ScoreFailure) -> float:
        """Seconds until judges that are out are asked again; the user is told.

        Raises Unscored where the run must not wait, or has waited enough.
        """
        now, limit = time.monotonic(), self.reward.outage_timeout
        outage = self._out.setdefault(case.part, Outage(since=now))
        case.out_since = case.out_since or now
        waited = now - min(outage.since, case.out_since)
        if self.reward.outage == "stop" or waited >= limit:
            why = "outage is stop" if self.reward.outage == "stop" else f"outage_timeout of {limit:g} s has passed"
            raise Unscored(
                f"{case.name}: no judge can be reached, and {self.role}.{why}: {failure.reason}; "
                "bring the judges back and start again"
            )
        if now - outage.told >= LONGEST_PAUSE:
            outage.told = now
            self.say(f"paused: {case.name}: no judge can be reached: {failure.reason}; waiting {limit - waited:.0f} s at most")
        case.pauses += 1
        return min(FIRST_PAUSE * 2.0 ** (case.pauses - 1), LONGEST_PAUSE, limit - waited)


def _built(judge: Judge, worker: ActorHandle) -> ObjectRef:
    return worker.start.options(max_task_retries=-1).remote(judge)
