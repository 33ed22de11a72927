"""Samples packed into micro-batches, the same way whenever the same samples come in the same order.

A sample is a row of spans: what the policy read, what it thought and what it painted. A text micro-batch packs everything but
the paintings, which nothing after them sees, and predicts the thoughts; a flow micro-batch packs what came before each painting
and the steps of its window, each a noised split of its own over one context. What was packed is kept for a whole step: the
anchor pass and every update see the same tensors, so their ratios start at exactly 1.

Shapes: S samples (of a text batch) or paintings (of a flow batch), N predicted tokens of one sample, M of the micro-batch, W
window steps, K noise draws, L latent tokens, C channels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor

from learner.window import Window
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.models.bagel.packing import Noised, Packed, Split, Text, pack, splits_of
from unigrpo.types import Given, GivenPicture, Sample, Span, Thought, Trajectory

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class SftExample:
    """One (prompt, thought, picture) to imitate. Example: 4 draws of a 4x4-token picture -> t_K [4], noise_KLC [4, 16, 64]."""

    given: tuple[Given | GivenPicture, ...]
    """What comes before the thought: the system prompt, if any, a picture to edit, if any, and the prompt."""
    thought: tuple[int, ...] | None
    """The thought's ids, bare; None paints straight from what is given."""
    latent_LC: Tensor
    """[L, C] float32 clean latent tokens of the picture."""
    grid_hw: tuple[int, int]
    """Rows and columns of latent tokens."""
    t_K: Tensor
    """[K] flow times in (0, 1)."""
    noise_KLC: Tensor
    """[K, L, C] float32 standard normal; the draws share one context."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One sample as it is packed. Example: thought 8 9 -> splits (Text(..), Text(bos 8 9 eos)), thoughts {1: (8, 9, eos)}."""

    splits: tuple[Split, ...]
    """What the model reads."""
    thoughts: dict[int, tuple[int, ...]]
    """By the number of a text split: what its ids, bos first, predict."""
    behavior_logp: tuple[float, ...] = ()
    """Of all that is predicted, in order, under the sampling policy; empty for text to imitate."""
    trajectory: Trajectory | None = None
    """The painting whose noised latents the last splits are."""
    unprompted: tuple[Split, ...] = ()
    """The same noised latents after the context without its last given text; empty without guidance."""
    advantages: tuple[float, ...] = ()
    """Of all that is predicted, in order, or of the painting alone; empty for what is imitated."""
    prompt: str = ""
    """What the user asked for, of a painting: a differentiable reward reads it."""
    weight: float = 1.0
    """0 for a dummy that only fills a batch up."""

    @property
    def num_tokens(self) -> int:
        """What micro-batches are sorted by."""
        return sum(split.num_tokens for split in (*self.splits, *self.unprompted))


@dataclass(frozen=True, kw_only=True, slots=True)
class TextBatch:
    """One micro-batch of predicted tokens."""

    packed: Packed
    row_M: Tensor
    """[M] ids of the packed row whose hidden state predicts."""
    target_M: Tensor
    """[M] ids they predict."""
    mask_SN: Tensor
    """[S, N] bool: where the M stand, sample by sample; nowhere in a dummy."""
    behavior_logp_SN: Tensor
    """[S, N] float64; 0 at padding, and everywhere for text to imitate."""
    advantage_SN: Tensor
    """[S, N] float64 of each token's thought; 0 at padding, and everywhere for text to imitate."""
    weight_S: Tensor
    """[S] 1, or 0 for a dummy."""
    num_pieces: int = 1
    """How many pieces its logits are taken in, the same on every rank."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowBatch:
    """One micro-batch of painted windows."""

    packed: Packed
    """Contexts, each followed by the steps of its window; with guidance, then the same after the contexts without prompt."""
    t_SW: Tensor
    t_next_SW: Tensor
    """[S, W] float64: where each step starts and ends."""
    x_SWLC: Tensor
    x_next_SWLC: Tensor
    behavior_mean_SWLC: Tensor
    """[S, W, L, C] float32 of each trajectory."""
    advantage_S: Tensor
    """[S] float64."""
    weight_S: Tensor
    """[S] 1, or 0 for a dummy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packer:
    """How micro-batches are packed, the same on every rank."""

    config: BagelConfig
    device: torch.device
    dtype: torch.dtype
    """Of the compute."""
    sees: bool
    """Whether some rank's samples hold pictures: the vision tower runs in every batch then (ZeRO-3)."""
    paints: bool
    """Whether some rank's rows hold latents: the generation expert runs in every batch then."""

    def __call__(self, rows: Sequence[Row]) -> Packed:
        """One packed row, whole contexts first; of no rows at all, a token that nothing is asked of."""
        unprompted = [row.unprompted for row in rows if row.unprompted]
        samples = [*(row.splits for row in rows), *unprompted] or [(Text((0,)),)]
        return pack(samples, self.config, device=self.device, dtype=self.dtype, sees=self.sees, paints=self.paints)


def sees_pictures(samples: Sequence[Sample | SftExample]) -> bool:
    """Whether any of them holds a picture that the policy was given."""
    spans = (span for each in samples for span in (each.spans if isinstance(each, Sample) else each.given))
    return any(isinstance(span, GivenPicture) for span in spans)


def text_row(sample: Sample, config: BagelConfig) -> Row:
    """A sample without its paintings: nothing that follows sees them."""
    splits: list[Split] = []
    thoughts = {}
    behavior_logp: list[float] = []
    advantages: list[float] = []
    for span, advantage in credited(sample):
        if isinstance(span, Trajectory):
            continue
        if isinstance(span, Thought):
            thoughts[len(splits)] = span.token_ids
            behavior_logp += span.behavior_logp
            advantages += [advantage] * len(span.token_ids)
        splits += splits_of([span], config)
    return Row(splits=tuple(splits), thoughts=thoughts, behavior_logp=tuple(behavior_logp), advantages=tuple(advantages))


def credited(sample: Sample) -> Iterator[tuple[Span, float]]:
    """Every span with its advantage: 0 for what the policy was given."""
    advantages = iter(sample.advantages)
    for span in sample.spans:
        yield span, next(advantages) if isinstance(span, Thought | Trajectory) else 0.0


def sft_row(example: SftExample, config: BagelConfig) -> Row:
    """An example: bos and every id of the thought predict the next, the last one eos, then the noised copies."""
    splits = splits_of(example.given, config)
    thoughts = {}
    if example.thought is not None:
        thoughts[len(splits)] = (*example.thought, config.eos_token_id)
        splits += splits_of([Given(token_ids=example.thought)], config)
    t_K11 = example.t_K[:, None, None].to(example.latent_LC.dtype)
    x_KLC = (1 - t_K11) * example.latent_LC + t_K11 * example.noise_KLC
    noised = [Noised(x_LC, t, example.grid_hw) for x_LC, t in zip(x_KLC, example.t_K.tolist(), strict=True)]
    return Row(splits=(*splits, *noised), thoughts=thoughts)


def cut(items: Sequence[Item], row: Callable[[Item], Row], size: int) -> list[list[Item]]:
    """Micro-batches of at most `size` items, sorted by the length of their rows; equal lengths keep their order."""
    ordered = sorted(items, key=lambda item: row(item).num_tokens)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def text_batch(rows: Sequence[Row], packer: Packer) -> TextBatch:
    """What rows predict; no rows at all make a dummy."""
    packed, device = packer(rows), packer.device
    predicted = [list(chain.from_iterable(row.thoughts.values())) for row in rows] or [[]]
    count = max(1, *map(len, predicted))
    mask_SN = torch.tensor([[place < len(ids) for place in range(count)] for ids in predicted])
    behavior_SN, advantage_SN = (torch.zeros(len(predicted), count, dtype=torch.float64) for _ in range(2))
    for place, row in enumerate(rows):
        behavior_SN[place, : len(row.behavior_logp)] = _float64(row.behavior_logp)
        advantage_SN[place, : len(row.advantages)] = _float64(row.advantages)
    places = [
        packed.places[sample][split][at]
        for sample, row in enumerate(rows)
        for split, ids in row.thoughts.items()
        for at in range(len(ids))
    ]
    return TextBatch(
        packed=packed,
        row_M=torch.tensor(places, dtype=torch.int64, device=device),
        target_M=torch.tensor(list(chain(*predicted)), dtype=torch.int64, device=device),
        mask_SN=mask_SN.to(device),
        behavior_logp_SN=behavior_SN.to(device),
        advantage_SN=advantage_SN.to(device),
        weight_S=_float64([1.0] * len(rows) or [0.0]).to(device),
    )


def flow_batch(rows: Sequence[Row], packer: Packer, window: Window) -> FlowBatch:
    """Windows of paintings, of at least one row."""
    device = packer.device
    trajectories = [row.trajectory for row in rows if row.trajectory is not None]
    times_SW1 = torch.stack([window.times(each.start) for each in trajectories]).to(device)

    def stacked(name: str) -> Tensor:
        return torch.stack([getattr(each, name) for each in trajectories]).to(device)

    return FlowBatch(
        packed=packer(rows),
        t_SW=times_SW1[:, :-1],
        t_next_SW=times_SW1[:, 1:],
        x_SWLC=stacked("x_WLC"),
        x_next_SWLC=stacked("x_next_WLC"),
        behavior_mean_SWLC=stacked("mean_WLC"),
        advantage_S=_float64([row.advantages[0] for row in rows]).to(device),
        weight_S=_float64([row.weight for row in rows]).to(device),
    )


def window_steps(trajectory: Trajectory, window: Window) -> list[Noised]:
    """The latents of every step of a painting's window."""
    times_W = window.times(trajectory.start)[:-1].tolist()
    return [Noised(x_LC, t, trajectory.grid_hw) for x_LC, t in zip(trajectory.x_WLC, times_W, strict=True)]


def _float64(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
