"""Painted groups to scores: every verifier of a reward judges every picture, and a failure is never a number.

Verifiers have pools of actors of their own, so a slow one holds up no other. Of a group that is asked again only the pictures
without a score are; which policy holds when no answer can be had at all is the config's.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from cluster.actors import part_role
from cluster.faults import Unscored
from cluster.pool import Job, Pool
from configs.reward import Reward, parts_of
from reward_server.combine import combine_verdicts
from reward_server.server import Tally as Asked
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


@dataclass(kw_only=True)
class Case:
    """One group before one verifier."""

    name: str
    """For messages."""
    prompt: Prompt
    paintings: ObjectRef
    """list[Painting], one a sibling."""
    verdicts: list[Score | ScoreFailure | None]
    """By sibling; None was not asked yet."""
    retries: int = 0
    """Times a wrong answer was asked again."""
    out_since: float | None = None
    """When judges were first found to be out (time.monotonic), None while they answer."""
    pauses: int = 0

    def open(self) -> list[int]:
        """Siblings without a score."""
        return [place for place, verdict in enumerate(self.verdicts) if not isinstance(verdict, Score)]

    def failures(self) -> list[ScoreFailure]:
        """What went wrong with each that failed."""
        return [verdict for verdict in self.verdicts if isinstance(verdict, ScoreFailure)]


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
    pools: dict[str, Pool] = field(init=False)
    _said: dict[str, float] = field(init=False, default_factory=dict)
    """Parts whose judges are out, and when the user was last told (time.monotonic)."""

    def __post_init__(self) -> None:
        self.pools = {
            part: Pool(role=part_role(self.role, part, parts_of(self.reward)), workers=workers, revive=_ready)
            for part, workers in self.workers.items()
        }

    def judge(
        self, name: str, prompt: Prompt, paintings: ObjectRef, size: int, done: Callable[[Sequence[Score]], None]
    ) -> None:
        """Queue one group of `size` pictures; `done` takes its scores, and is never called for a group that is dropped.

        Raises Unscored, now or while the pools are driven, where the policy is to end the run.
        """
        cases = {
            part: Case(name=f"{name} by {pool.role}", prompt=prompt, paintings=paintings, verdicts=[None] * size)
            for part, pool in self.pools.items()
        }
        settled: set[str] = set()

        def settle(part: str) -> None:
            settled.add(part)
            if settled != cases.keys():
                return
            by_sibling = zip(*(cases[each].verdicts for each in cases), strict=True)
            verdicts = [combine_verdicts(self.reward, dict(zip(cases, each, strict=True))) for each in by_sibling]
            failed = [verdict for verdict in verdicts if isinstance(verdict, ScoreFailure)]
            if failed:
                self.tally.dropped += 1
                self.say(f"dropped: {name}: {len(failed)} of {size} pictures have no score, the first: {failed[0].reason}")
            else:
                done([verdict for verdict in verdicts if isinstance(verdict, Score)])

        for part in cases:
            self._ask(part, cases[part], settle)

    def _ask(self, part: str, case: Case, settle: Callable[[str], None], not_before: float = 0.0) -> None:
        places = case.open()

        def submit(worker: ActorHandle) -> list[ObjectRef]:
            return [worker.judge.remote(case.prompt, case.paintings, places)]

        def done(refs: Sequence[ObjectRef]) -> None:
            take(*ray.get(refs[0]))

        def given_up(reason: str) -> None:
            failed = ScoreFailure(reason=f"the reward actor does not live through it: {reason}", outage=True)
            take([failed] * len(places), Asked(asked=len(places), failed=len(places)))

        def take(answers: Sequence[Score | ScoreFailure], asked: Asked) -> None:
            for place, answer in zip(places, answers, strict=True):
                case.verdicts[place] = answer
            self._count(part, asked)
            if case.failures():
                self._decide(part, case, settle)
            else:
                settle(part)

        judge = parts_of(self.reward)[part]
        num_calls = -(-len(places) // judge.call_size) if judge.call_size else 1
        self.pools[part].add(
            Job(
                name=case.name,
                submit=submit,
                done=done,
                not_before=not_before,
                restart_after=num_calls * judge.judge_timeout,
                given_up=given_up,
            )
        )

    def _count(self, part: str, asked: Asked) -> None:
        self.tally.asked += asked.asked
        self.tally.cached += asked.cached
        self.tally.failed += asked.failed
        self.tally.retried += asked.retried
        if asked.failed < asked.asked and self._said.pop(part, None) is not None:
            self.say(f"judges of {self.pools[part].role} answer again")

    def _decide(self, part: str, case: Case, settle: Callable[[str], None]) -> None:
        """Ask again, now or later, or give the group up."""
        failures = case.failures()
        if not all(failure.outage for failure in failures):
            if case.retries == self.reward.max_retries:
                settle(part)
                return
            case.retries += 1
            pause = 0.0
        elif self.reward.outage == "drop":
            settle(part)
            return
        else:
            pause = self._pause(part, case, failures[0])
        self.tally.retried += len(failures)
        self._ask(part, case, settle, not_before=time.monotonic() + pause)

    def _pause(self, part: str, case: Case, failure: ScoreFailure) -> float:
        """Seconds until judges that are out are asked again; the user is told.

        Raises Unscored where the run must not wait, or has waited enough.
        """
        now, limit = time.monotonic(), self.reward.outage_timeout
        if case.out_since is None:
            case.out_since = now
        waited = now - case.out_since
        if self.reward.outage == "stop" or waited >= limit:
            why = "outage is stop" if self.reward.outage == "stop" else f"outage_timeout of {limit:g} s has passed"
            raise Unscored(
                f"{case.name}: no judge can be reached, and {self.role}.{why}: {failure.reason}; "
                "bring the judges back and start the run again to resume it"
            )
        if now - self._said.get(part, -math.inf) >= LONGEST_PAUSE:
            self._said[part] = now
            self.say(f"paused: {case.name}: no judge can be reached: {failure.reason}; waiting {limit - waited:.0f} s at most")
        case.pauses += 1
        return min(FIRST_PAUSE * 2.0 ** (case.pauses - 1), LONGEST_PAUSE, limit - waited)


def _ready(worker: ActorHandle) -> ObjectRef:
    return worker.__ray_ready__.options(max_task_retries=-1).remote()
