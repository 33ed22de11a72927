"""What travels together through rollouts, how it is sampled, and which random draws are whose.

Shapes: P prompts, G paintings of one prompt, M thoughts of one prompt, K paintings of one thought, S paintings of a piece.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cluster.spans import Kept
from configs.algorithms import Window
from configs.guidance import Guidance
from unigrpo.algo.flow import window_start
from unigrpo.seeds import derive_seed
from unigrpo.types import Given, Prompt

Plan = Callable[[Prompt, int], Sequence[int]]
"""(prompt, number of the thought) -> token ids of a thought given from outside."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a batch of prompts is thought through and painted; everything a piece needs beside its prompts."""

    seed: int
    """Of the run, or of the evaluation."""
    step: int
    """With the seed, the prompt and the number of the thought or painting it names every random draw."""
    group_size: int
    """G: paintings of one prompt."""
    temperature: float
    num_points: int
    prompts_per_piece: int
    """Groups that travel together."""
    judge: Literal["training", "evaluation"]
    thinks: bool = True
    """Whether thoughts come before paintings; without them the system prompt is left out too."""
    images_per_thought: int = 1
    """K: paintings of one thought."""
    leaves_trajectories: bool = False
    """Whether paintings are recorded for the learner."""
    window: Window | None = None
    """The steps that are recorded; None takes all steps deterministically and records finished latents alone."""
    guidance: Guidance | None = None
    """Of the paintings."""
    plan: Plan | None = None
    """Thoughts to paint from; None lets the policy think."""

    @property
    def num_thoughts(self) -> int:
        """M: thoughts of one prompt."""
        return self.group_size // self.images_per_thought

    @property
    def noise_level(self) -> float:
        """eta of the recorded steps."""
        return 0.0 if self.window is None else self.window.noise_level

    def windows(self, seeds_S: Sequence[int]) -> list[range] | None:
        """The steps to record of paintings with these seeds: the same for all of a step, or drawn by each seed."""
        if not self.leaves_trajectories:
            return None
        window = self.window
        if window is None:
            return [range(0)] * len(seeds_S)
        by_sample = window.placement == "sample"
        starts_S = [window_start(seed if by_sample else self.seed, self.step, window.range, window.size) for seed in seeds_S]
        return [range(start, start + window.size) for start in starts_S]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Prompts that travel together, and what tells their draws from those of the same prompt elsewhere in the batch."""

    places: tuple[int, ...]
    """Of the prompts in the batch."""
    prompts: tuple[Prompt, ...]
    """All with a picture to edit, or none."""
    given: tuple[tuple[Given | Kept, ...], ...]
    """What the policy reads before it thinks of each prompt: system prompt, if any, picture, once seen, and text."""
    copies: tuple[int, ...]
    """How often each prompt comes earlier in the batch: its draws are numbered on from theirs."""

    def __str__(self) -> str:
        return f"prompts {', '.join(map(str, self.places))}"

    @property
    def edits(self) -> bool:
        """Whether its prompts have pictures."""
        return self.prompts[0].picture is not None

    def with_pictures(self, pictures: Sequence[Kept]) -> "Piece":
        """The piece once its pictures are seen: each stands before the prompt's text."""
        given = zip(self.given, pictures, strict=True)
        return replace(self, given=tuple((*spans[:-1], picture, spans[-1]) for spans, picture in given))

    def thought_seeds(self, sampling: Sampling) -> list[list[int]]:
        """[P][M] one seed a thought."""
        return self._seeds("thought", sampling.num_thoughts, sampling)

    def painting_seeds(self, sampling: Sampling) -> list[list[int]]:
        """[P][G] one seed a painting."""
        return self._seeds("painting", sampling.group_size, sampling)

    def _seeds(self, stream: str, count: int, sampling: Sampling) -> list[list[int]]:
        return [
            [derive_seed(sampling.seed, stream, sampling.step, prompt.index, copy * count + each) for each in range(count)]
            for prompt, copy in zip(self.prompts, self.copies, strict=True)
        ]

    def picture_seeds(self, sampling: Sampling) -> list[int]:
        """[P] one seed a prompt: its siblings edit the same draw of the picture's latents."""
        return [derive_seed(sampling.seed, "picture", sampling.step, prompt.index) for prompt in self.prompts]


def cut(
    prompts: Sequence[Prompt], sampling: Sampling, *, encode: Callable[[str], Sequence[int]], system: Sequence[Given]
) -> Iterator[Piece]:
    """Pieces of a batch in the order of its prompts, those with a picture apart from those without: they take other ways."""
    seen: Counter[int] = Counter()
    copies = []
    for prompt in prompts:
        copies.append(seen[prompt.index])
        seen[prompt.index] += 1
    for edits in (False, True):
        kind = [place for place, prompt in enumerate(prompts) if (prompt.picture is not None) == edits]
        for start in range(0, len(kind), sampling.prompts_per_piece):
            places = tuple(kind[start : start + sampling.prompts_per_piece])
            yield Piece(
                places=places,
                prompts=tuple(prompts[place] for place in places),
                given=tuple((*system, Given(token_ids=tuple(encode(prompts[place].text)))) for place in places),
                copies=tuple(copies[place] for place in places),
            )
