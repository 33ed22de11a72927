"""Prompts to judged groups: thoughts stream into painting and paintings into judging, whoever is free takes the next piece."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from cluster.judging import Judges, Tally
from cluster.pool import Job, Pool, covered, drive
from cluster.wait import wait_all
from unigrpo.layout import close_thought
from unigrpo.seeds import derive_seed
from unigrpo.types import Painting, Prompt, Score, Thought

Plan = Callable[[Prompt, int], Sequence[int]]
"""(prompt, sibling) -> token ids of a thought given from outside."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a batch of prompts is thought through and painted; everything a piece needs beside its prompts."""

    seed: int
    """Of the run, or of the evaluation."""
    step: int
    """With the seed, the prompt and the sibling it names every random draw."""
    group_size: int
    temperature: float
    num_points: int
    prompts_per_piece: int
    """Groups that travel together."""
    judge: Literal["training", "evaluation"]
    window_start: int | None = None
    """First stochastic step; None paints deterministically."""
    plan: Plan | None = None
    """Thoughts to paint from; None lets the policy think."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The G judged siblings of one prompt. Pictures and latents stay in the object store; the driver holds references."""

    prompt: Prompt
    given: tuple[tuple[int, ...], ...]
    """Bare text segments before the thought: the system prompt, if any, and the prompt."""
    thoughts: tuple[Thought, ...]
    scores: tuple[Score, ...]
    paintings: ObjectRef | None
    """list[Painting], one a sibling; None once they were handed on."""
    trajectories: tuple[ObjectRef, ...]
    """Trajectory, one a sibling; empty when painted deterministically."""


class Rollouts:
    """Reasoners, denoisers and reward actors as one worker with two verbs: `load` weights, `generate` groups."""

    def __init__(
        self,
        *,
        reasoners: Sequence[ActorHandle],
        denoisers: Sequence[ActorHandle],
        judges: Mapping[str, Judges],
        encode: Callable[[str], Sequence[int]],
        system_ids: Sequence[int],
        eos: int,
        timeout: float,
        watch: Callable[[Sequence[Pool], Tally], None],
    ) -> None:
        self._encode, self._system_ids, self._eos = encode, tuple(system_ids), eos
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
        """Of the last batch: how long each role was busy, and how long nothing but judging went on (`reward_wait`)."""
        making = [span for pool in (self.thinking, self.painting) for span in pool.spans]
        everything = [span for pool in self.pools for span in pool.spans]
        return {pool.role: pool.seconds() for pool in self.pools} | {"reward_wait": covered(everything) - covered(making)}

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

        for piece in self._pieces(prompts, sampling):
            self._think(piece, sampling, judge)
        drive(self.pools, timeout=self._timeout, watch=lambda: self._watch(self.pools, self.tally))
        assert self.tally.dropped == len(prompts) - len(groups), "a group is judged or dropped"
        return [groups[place] for place in sorted(groups)]

    def _fill(self, worker: ActorHandle) -> ObjectRef:
        return worker.load.options(max_task_retries=-1).remote(self._version, self._buckets)

    def _pieces(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator["Piece"]:
        seen: Counter[int] = Counter()
        first_siblings = []
        for prompt in prompts:
            first_siblings.append(seen[prompt.index] * sampling.group_size)
            seen[prompt.index] += 1
        for first in range(0, len(prompts), sampling.prompts_per_piece):
            places = slice(first, first + sampling.prompts_per_piece)
            yield Piece(
                first=first,
                prompts=tuple(prompts[places]),
                prompt_ids=tuple(tuple(self._encode(prompt.text)) for prompt in prompts[places]),
                first_siblings=tuple(first_siblings[places]),
            )

    def _think(self, piece: "Piece", sampling: Sampling, judge: Callable[[int, "Unjudged"], None]) -> None:
        paint = partial(self._paint, piece, sampling, judge)
        if sampling.plan is not None:
            assert self._version is not None, "load() comes first"
            plans_PG = [[sampling.plan(prompt, g) for g in range(sampling.group_size)] for prompt in piece.prompts]
            paint([[_given(plan, self._version) for plan in plans_G] for plans_G in plans_PG])
            return
        seeds = piece.seeds("thought", sampling)
        self.thinking.add(
            Job(
                name=f"thoughts of {piece}",
                submit=lambda worker: [
                    worker.think.remote(self._system_ids, piece.prompt_ids, seeds, sampling.temperature, self._version)
                ],
                done=lambda refs: paint(ray.get(refs[0])),
            )
        )

    def _paint(
        self,
        piece: "Piece",
        sampling: Sampling,
        judge: Callable[[int, "Unjudged"], None],
        thoughts_PG: Sequence[Sequence[Thought]],
    ) -> None:
        head = (self._system_ids,) if self._system_ids else ()
        given_P = [(*head, ids) for ids in piece.prompt_ids]
        contexts = [
            (*given, close_thought(thought, self._eos))
            for given, thoughts in zip(given_P, thoughts_PG, strict=True)
            for thought in thoughts
        ]
        seeds = [seed for seeds_G in piece.seeds("painting", sampling) for seed in seeds_G]
        trained = 0 if sampling.window_start is None else len(contexts)

        def submit(worker: ActorHandle) -> Sequence[ObjectRef]:
            call = worker.paint_groups.options(num_returns=1 + len(piece.prompts) + trained)
            return call.remote(len(piece.prompts), contexts, seeds, sampling.num_points, sampling.window_start, self._version)

        def done(refs: Sequence[ObjectRef]) -> None:
            paintings, trajectories = refs[1 : 1 + len(piece.prompts)], refs[1 + len(piece.prompts) :]
            size = sampling.group_size
            for place, prompt in enumerate(piece.prompts):
                group = Unjudged(
                    prompt=prompt,
                    given=given_P[place],
                    thoughts=tuple(thoughts_PG[place]),
                    paintings=paintings[place],
                    trajectories=tuple(trajectories[place * size : (place + 1) * size]),
                )
                judge(piece.first + place, group)

        self.painting.add(Job(name=f"paintings of {piece}", submit=submit, done=done))


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Prompts that travel together, and what tells their draws from those of the same prompt elsewhere in the batch."""

    first: int
    """Place of the first one in the batch."""
    prompts: tuple[Prompt, ...]
    prompt_ids: tuple[tuple[int, ...], ...]
    first_siblings: tuple[int, ...]
    """Number of each prompt's first sibling: 0, or G for every earlier copy of the prompt in the batch."""

    def __str__(self) -> str:
        return f"prompts {self.first}-{self.first + len(self.prompts) - 1}"

    def seeds(self, stream: str, sampling: Sampling) -> list[list[int]]:
        """[P][G] one seed a sample and stream of draws."""
        return [
            [derive_seed(sampling.seed, stream, sampling.step, prompt.index, first + g) for g in range(sampling.group_size)]
            for prompt, first in zip(self.prompts, self.first_siblings, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class Unjudged:
    """A painted group on its way to the judges."""

    prompt: Prompt
    given: tuple[tuple[int, ...], ...]
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


def paintings_of(groups: Sequence[Group | Unjudged], *, timeout: float) -> list[list[Painting]]:
    """Fetch the pictures of some groups, which still have them, for a gallery or a report."""
    refs = {f"paintings of prompt {group.prompt.index}, group {place}": group.paintings for place, group in enumerate(groups)}
    results: list[list[Painting]] = wait_all(refs, timeout=timeout)
    return results


def _given(token_ids: Sequence[int], version: int) -> Thought:
    return Thought(token_ids=tuple(token_ids), behavior_logp=(0.0,) * len(token_ids), truncated=True, policy_version=version)
