"""Prompts to judged groups: thoughts stream into painting and paintings into judging, whoever is free takes the next piece.

Shapes: P prompts, G siblings painted of one prompt, M thoughts of one prompt, K paintings of one thought.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from cluster.judging import Judges, Tally
from cluster.pieces import Piece, Sampling, cut
from cluster.pool import Job, Pool, covered, drive
from cluster.spans import Freight, Kept
from cluster.wait import wait_all
from configs.schema import TrainConfig
from unigrpo.types import Given, Painting, Prompt, Score, Thought


@dataclass(frozen=True, kw_only=True)
class Group:
    """The G judged siblings of one prompt. Pictures and latents stay in the object store; the driver holds references."""

    prompt: Prompt
    given: tuple[Given | Kept, ...]
    """What the policy read before its thoughts: the system prompt, if any, the picture, if any, and the text."""
    thoughts: tuple[Thought, ...]
    """M = G / K of them, each painted K times in a row; empty where nothing was thought."""
    scores: tuple[Score, ...]
    paintings: ObjectRef | None
    """list[Painting], one a sibling; None once they were handed on."""
    trajectories: tuple[ObjectRef, ...]
    """Trajectory, one a sibling; empty where the learner has no use for them."""

    @property
    def images_per_thought(self) -> int:
        """K; 1 where nothing was thought."""
        return len(self.scores) // len(self.thoughts) if self.thoughts else 1

    @property
    def thoughts_G(self) -> list[Thought] | list[None]:
        """What each sibling was painted from."""
        return painted_from(self.thoughts, len(self.scores))


class Rollouts:
    """Reasoners, denoisers and reward actors as one worker with two verbs: `load` weights, `generate` groups."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        reasoners: Sequence[ActorHandle],
        denoisers: Sequence[ActorHandle],
        judges: Mapping[str, Judges],
        encode: Callable[[str], Sequence[int]],
        system: Sequence[Given],
        timeout: float,
        watch: Callable[[Sequence[Pool], Tally], None],
    ) -> None:
        self._config, self._encode, self._system = config, encode, system
        self._timeout, self._watch = timeout, watch
        self._version: int | None = None
        self._buckets: list[ObjectRef] = []
        self.thinking = Pool(role="reasoner", workers=reasoners, revive=self._fill)
        self.painting = Pool(role="denoiser", workers=denoisers, revive=self._fill)
        self.judges = judges

    @property
    def pools(self) -> list[Pool]:
        """The stages, in order."""
        judging = [pool for judges in dict.fromkeys(self.judges.values()) for pool in judges.pools.values()]
        return [self.thinking, self.painting, *judging]

    def seconds(self) -> dict[str, float]:
        """Of the last batch: how long each role with work was busy, and how long only judging went on (`reward_wait`)."""
        making = [span for pool in (self.thinking, self.painting) for span in pool.spans]
        everything = [span for pool in self.pools for span in pool.spans]
        busy = {pool.role: pool.seconds() for pool in self.pools if pool.spans}
        return busy | {"reward_wait": covered(everything) - covered(making)}

    def load(self, buckets: list[ObjectRef], *, version: int) -> None:
        """Put published weights into every worker; returns when each serves `version`. Raises Stalled past the deadline."""
        self._version, self._buckets = version, buckets
        calls = {
            f"load of version {version} on {pool.role} {index}": self._fill(worker)
            for pool in (self.thinking, self.painting)
            for index, worker in enumerate(pool.workers)
        }
        wait_all(calls, timeout=self._timeout)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, painted: Callable[["Unjudged"], None] | None = None
    ) -> list[Group]:
        """Think, paint and judge; groups come back in the order of `prompts`, those whose score failed left out and counted.

        `painted` is handed every group as soon as it is painted; groups then come back without their paintings, which leave the
        object store once they are judged.
        """
        judges = self.judges[sampling.judge]
        self.tally = judges.tally = Tally(groups=len(prompts))
        for pool in self.pools:
            pool.spans.clear()
        groups: dict[int, Group] = {}

        def judge(place: int, unjudged: Unjudged) -> None:
            if painted is not None:
                painted(unjudged)
            name, judged = f"scores of prompt {place}", partial(keep, place, unjudged)
            judges.judge(name, unjudged.prompt, unjudged.paintings, sampling.group_size, judged)

        def keep(place: int, unjudged: Unjudged, scores: Sequence[Score]) -> None:
            group = unjudged.judged(scores)
            groups[place] = group if painted is None else replace(group, paintings=None)

        system = self._system if sampling.thinks else ()
        for piece in cut(prompts, sampling, encode=self._encode, system=system):
            self._begin(piece, sampling, judge)
        drive(self.pools, timeout=self._timeout, watch=lambda: self._watch(self.pools, self.tally))
        assert self.tally.dropped == len(prompts) - len(groups), "a group is judged or dropped"
        return [groups[place] for place in sorted(groups)]

    def _fill(self, worker: ActorHandle) -> ObjectRef:
        return worker.load.options(max_task_retries=-1).remote(self._config, self._version, self._buckets)

    def _begin(self, piece: Piece, sampling: Sampling, judge: "Judge") -> None:
        think = partial(self._think, sampling=sampling, judge=judge)
        if piece.edits:
            self._see(piece, sampling, think)
        else:
            think(piece)

    def _see(self, piece: Piece, sampling: Sampling, then: Callable[[Piece], None]) -> None:
        pictures = [(prompt.picture, seed) for prompt, seed in zip(piece.prompts, piece.picture_seeds(sampling), strict=True)]

        def done(refs: Sequence[ObjectRef]) -> None:
            sizes = ray.get(refs[0])
            then(piece.with_pictures([Kept(ref, size) for ref, size in zip(refs[1:], sizes, strict=True)]))

        self.painting.add(
            Job(
                name=f"pictures of {piece}",
                submit=lambda worker: worker.see.options(num_returns=1 + len(pictures)).remote(pictures),
                done=done,
            )
        )

    def _think(self, piece: Piece, *, sampling: Sampling, judge: "Judge") -> None:
        """By the reasoners, but for prompts with pictures, which vLLM does not read as BAGEL does."""
        paint = partial(self._paint, piece, sampling, judge)
        if not sampling.thinks:
            paint([()] * len(piece.prompts))
            return
        if sampling.plan is not None:
            assert self._version is not None, "load() comes first"
            plans_PM = [[sampling.plan(prompt, m) for m in range(sampling.num_thoughts)] for prompt in piece.prompts]
            paint([[_planned(plan, self._version) for plan in plans_M] for plans_M in plans_PM])
            return
        freight = Freight()
        given_P = [freight.load(spans) for spans in piece.given]
        seeds = piece.thought_seeds(sampling)
        pool = self.painting if piece.edits else self.thinking
        pool.add(
            Job(
                name=f"thoughts of {piece}",
                submit=lambda worker: [worker.think.remote(given_P, seeds, sampling.temperature, self._version, *freight.refs)],
                done=lambda refs: paint(ray.get(refs[0])),
            )
        )

    def _paint(self, piece: Piece, sampling: Sampling, judge: "Judge", thoughts_PM: Sequence[Sequence[Thought]]) -> None:
        freight, groups, size = Freight(), len(piece.prompts), sampling.group_size
        contexts = [
            freight.load(given if thought is None else (*given, thought))
            for given, thoughts in zip(piece.given, thoughts_PM, strict=True)
            for thought in painted_from(thoughts, size)
        ]
        seeds = [seed for seeds_G in piece.painting_seeds(sampling) for seed in seeds_G]
        windows, noise_level = sampling.windows(seeds), sampling.noise_level
        arguments = (seeds, sampling.num_points, windows, noise_level, sampling.guidance, self._version)
        trained = 0 if windows is None else len(contexts)

        def submit(worker: ActorHandle) -> Sequence[ObjectRef]:
            call = worker.paint_groups.options(num_returns=1 + groups + trained)
            return call.remote(groups, contexts, arguments, *freight.refs)

        def done(refs: Sequence[ObjectRef]) -> None:
            paintings, trajectories = refs[1 : 1 + groups], refs[1 + groups :]
            for index, prompt in enumerate(piece.prompts):
                group = Unjudged(
                    prompt=prompt,
                    given=piece.given[index],
                    thoughts=tuple(thoughts_PM[index]),
                    paintings=paintings[index],
                    trajectories=tuple(trajectories[index * size : (index + 1) * size]),
                )
                judge(piece.places[index], group)

        self.painting.add(Job(name=f"paintings of {piece}", submit=submit, done=done))


@dataclass(frozen=True, kw_only=True)
class Unjudged:
    """A painted group on its way to the judges."""

    prompt: Prompt
    given: tuple[Given | Kept, ...]
    thoughts: tuple[Thought, ...]
    paintings: ObjectRef
    trajectories: tuple[ObjectRef, ...]

    def judged(self, scores: Sequence[Score]) -> Group:
        """The finished group."""
        return Group(
            prompt=self.prompt,
            given=self.given,
            thoughts=self.thoughts,
            scores=tuple(scores),
            paintings=self.paintings,
            trajectories=self.trajectories,
        )


Judge = Callable[[int, Unjudged], None]
"""Takes a painted group and its prompt's place in the batch."""


def painted_from(thoughts: Sequence[Thought], size: int) -> list[Thought] | list[None]:
    """The thought behind each of `size` siblings: each painted equally often, in a row; None where nothing was thought."""
    return [thought for thought in thoughts for _ in range(size // len(thoughts))] if thoughts else [None] * size


def paintings_of(groups: Sequence[Group | Unjudged], *, timeout: float) -> list[list[Painting]]:
    """Fetch the pictures of some groups, which still have them, for a gallery or a report."""
    refs = {f"paintings of prompt {group.prompt.index}, group {place}": group.paintings for place, group in enumerate(groups)}
    results: list[list[Painting]] = wait_all(refs, timeout=timeout)
    return results


def _planned(token_ids: Sequence[int], version: int) -> Thought:
    return Thought(token_ids=tuple(token_ids), behavior_logp=(0.0,) * len(token_ids), truncated=True, policy_version=version)
