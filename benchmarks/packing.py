"""Training on samples packed end to end against the same samples padded to the longest, forward and backward.

The padded ones carry more ids, or more noised latents, of their own, so that every linear layer and the attention pay for what
padding would cost. The loss reads the real tokens alone in both: the padded side is spared the head over its padding. Rows are
packed beforehand, as the learner packs a step's samples once for its passes; what packing takes is reported.

Shapes: S samples, T tokens, N noised latents, C channels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import Figure, report, take_turns
from benchmarks.workload import MIDDLE
from unigrpo.models.bagel.model import Bagel
from unigrpo.models.bagel.packing import Noised, Packed, Split, Text, pack

CONFIG = replace(MIDDLE, hidden_size=512, intermediate_size=2048, num_layers=4, num_heads=8, num_kv_heads=2)
SAMPLES = 16
MEDIAN, SIGMA = 128, 0.6
"""Of the lognormal lengths of texts, in tokens."""
GRIDS = ((4, 8), (6, 6), (8, 4), (8, 8))
"""Latent tokens of noised pictures: 64 to 128 pixels a side at the released size of a token."""
TURNS = 5


@dataclass(frozen=True, slots=True)
class Example:
    """A text and, if any, a noised picture after it. Example: 9 ids, 6 of them real -> ids [9], length 6."""

    ids: tuple[int, ...]
    length: int
    """Ids that are trained on; the others are padding."""
    noised: Noised | None
    num_latents: int
    """Latent tokens that are trained on."""

    @property
    def splits(self) -> list[Split]:
        """What is packed."""
        return [Text(self.ids), *([] if self.noised is None else [self.noised])]


def measure() -> Iterator[Figure]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Bagel(CONFIG)
    lengths = lognormal_lengths(SAMPLES, MEDIAN, SIGMA)
    yield from _figures(model, "texts, cross-entropy", [example(length, None) for length in lengths])
    both = [example(length, GRIDS[place % len(GRIDS)]) for place, length in enumerate(lengths)]
    yield from _figures(model, "texts and noised pictures, cross-entropy and velocity error", both)


def lognormal_lengths(count: int, median_length: float, sigma: float) -> list[int]:
    """Lengths of at least 2, from a fixed seed."""
    draws = torch.randn(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [max(2, round(float(length))) for length in median_length * (sigma * draws).exp()]


def example(length: int, grid_hw: tuple[int, int] | None) -> Example:
    """Random ids, and random latents at t = 0.5 where there is a grid."""
    ids = tuple(torch.randint(4, CONFIG.vocab_size, (length,)).tolist())
    if grid_hw is None:
        return Example(ids, length, None, 0)
    num_latents = grid_hw[0] * grid_hw[1]
    return Example(ids, length, Noised(torch.randn(num_latents, CONFIG.latent_channels), 0.5, grid_hw), num_latents)


def padded(examples: Sequence[Example]) -> list[Example]:
    """All texts as long as the longest, all pictures as large as the largest; what is trained on stays."""
    length = max(len(each.ids) for each in examples)
    largest = max((each.noised for each in examples if each.noised is not None), key=lambda each: len(each.x_LC), default=None)
    return [
        replace(
            each,
            ids=each.ids + (0,) * (length - len(each.ids)),
            noised=None if each.noised is None or largest is None else _grown(each.noised, largest),
        )
        for each in examples
    ]


def training_pass(model: Bagel, examples: Sequence[Example], packed: Packed) -> Callable[[], Tensor]:
    """Forward and backward of cross-entropy of every next token, and of the mean squared error of velocities of 0."""
    starts = [places[0].start for places in packed.places]
    row_M = torch.cat([torch.arange(start, start + each.length - 1) for start, each in zip(starts, examples, strict=True)])
    kept_N = [torch.arange(len(each.noised.x_LC)) < each.num_latents for each in examples if each.noised is not None]

    def run() -> Tensor:
        model.zero_grad()
        hidden = model(packed)
        loss = -model.token_logp(hidden.text_UH[row_M], packed.ids_U[row_M + 1]).mean()
        if kept_N:
            real_NC = hidden.velocity_NC[torch.cat(kept_N)]
            loss = loss + F.mse_loss(real_NC, torch.zeros_like(real_NC))
        loss.backward()
        return loss.detach()

    return run


def _figures(model: Bagel, label: str, examples: list[Example]) -> Iterator[Figure]:
    sides = {"packed": examples, "padded": padded(examples)}
    rows = {name: _packed(side) for name, side in sides.items()}
    runs = {name: training_pass(model, side, rows[name]) for name, side in sides.items()}
    times = take_turns(runs, TURNS)
    tokens = {name: len(row.position_T) for name, row in rows.items()}
    share = tokens["padded"] / tokens["packed"]
    lengths = sorted(each.length for each in examples)
    yield Figure(
        name=f"packed over padded, {len(examples)} {label}",
        value=times.ratio("padded", "packed"),
        unit="x",
        at_least=0.8 * share,
        note=f"{times.note('padded', 'packed')}; {tokens['padded']} over {tokens['packed']} tokens = {share:.3g}, "
        f"lengths {lengths[0]} to {lengths[-1]}, median {median(lengths):.0f}; hidden {CONFIG.hidden_size}, "
        f"{CONFIG.num_layers} layers",
    )
    seconds = take_turns({"packing": partial(_packed, examples)}, TURNS).median("packing")
    yield Figure(name="packing them, over forward and backward once", value=100 * seconds / times.median("packed"), unit="%")


def _packed(examples: Sequence[Example]) -> Packed:
    return pack([each.splits for each in examples], CONFIG, device=torch.device("cpu"), dtype=torch.float32)


def _grown(noised: Noised, largest: Noised) -> Noised:
    more_LC = torch.zeros(len(largest.x_LC) - len(noised.x_LC), noised.x_LC.shape[1])
    return replace(noised, x_LC=torch.cat((noised.x_LC, more_LC)), grid_hw=largest.grid_hw)


if __name__ == "__main__":
    report("packing", measure())
