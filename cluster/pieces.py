"""What travels together through rollouts, how it is sampled, and which random draws are whose."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cluster.spans import Kept
from configs.guidance import Guidance
from unigrpo.seeds import derive_seed
from unigrpo.types import Given, Prompt

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
    guidance: Guidance | None = None
    """Of the paintings; None in training."""
    plan: Plan | None = None
    """Thoughts to paint from; None lets the policy think."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Prompts that travel together, and what tells their draws from those of the same prompt elsewhere in the batch."""

    places: tuple[int, ...]
    """Of the prompts in the batch."""
    prompts: tuple[Prompt, ...]
    """All with a picture to edit, or none."""
    given: tuple[tuple[Given | Kept, ...], ...]
    """What the policy reads before it thinks of each prompt: system prompt, if any, picture, once seen, and text."""
    first_siblings: tuple[int, ...]
    """Number of each prompt's first sibling: 0, or G for every earlier copy of the prompt in the batch."""

    def __str__(self) -> str:
        return f"prompts {', '.join(map(str, self.places))}"

    @property
    def edits(self) -> bool:
        """Whether its prompts have pictures."""
        return self.prompts[0].picture is not None

    def with_pictures(self, pictures: Sequence[Kept]) -> "Piece":
        """The piece once its pictures are seen: each stands before the prompt's text (BAGEL.md 10)."""
        given = zip(self.given, pictures, strict=True)
        return replace(self, given=tuple((*spans[:-1], picture, spans[-1]) for spans, picture in given))

    def seeds(self, stream: str, sampling: Sampling) -> list[list[int]]:
        """[P][G] one seed a sample and stream of draws."""
        return [
            [derive_seed(sampling.seed, stream, sampling.step, prompt.index, first + g) for g in range(sampling.group_size)]
            for prompt, first in zip(self.prompts, self.first_siblings, strict=True)
        ]

    def picture_seeds(self, sampling: Sampling) -> list[int]:
        """[P] one seed a prompt: its siblings edit the same draw of the picture's latents."""
        return [derive_seed(sampling.seed, "picture", sampling.step, prompt.index) for prompt in self.prompts]


def cut(
    prompts: Sequence[Prompt], sampling: Sampling, *, encode: Callable[[str], Sequence[int]], system: Sequence[Given]
) -> Iterator[Piece]:
    """Pieces of a batch in the order of its prompts, those with a picture apart from those without: they take other ways."""
    seen: Counter[int] = Counter()
    first_siblings = []
    for prompt in prompts:
        first_siblings.append(seen[prompt.index] * sampling.group_size)
        seen[prompt.index] += 1
    for edits in (False, True):
        kind = [place for place, prompt in enumerate(prompts) if (prompt.picture is not None) == edits]
        for start in range(0, len(kind), sampling.prompts_per_piece):
            places = tuple(kind[start : start + sampling.prompts_per_piece])
            yield Piece(
                places=places,
                prompts=tuple(prompts[place] for place in places),
                given=tuple((*system, Given(token_ids=tuple(encode(prompts[place].text)))) for place in places),
                first_siblings=tuple(first_siblings[place] for place in places),
            )
