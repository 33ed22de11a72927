"""Samples cut into padded micro-batches, the same way whenever the same samples come in the same order.

A sample is walked span by span into one *chain*: the text the policy read, the places where it predicted a token of its own,
and the picture it painted after them. Text and flow micro-batches are packed apart, each sorted by length to save padding. What
was packed is kept for a whole step: the anchor pass and every update see the same tensors, so their ratios start at exactly 1.

Shapes: S samples, T tokens, N predicted tokens (right-padded), W window steps, K noise draws, L latent tokens, C channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unigrpo.layout import SpecialTokens, close_thought, segments_to_ids
from unigrpo.types import Given, Sample, Thought, Trajectory

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class SftExample:
    """One (prompt, thought, picture) to imitate. Example: 4 draws of a 4x4-token picture -> t_K [4], noise_KLC [4, 16, 64]."""

    given: tuple[tuple[int, ...], ...]
    """Text segments before the thought, bare: the system prompt, if any, and the prompt."""
    thought: tuple[int, ...] | None
    """The thought's ids, bare; None paints straight from the prompt."""
    latent_LC: Tensor
    """[L, C] float32 clean latent tokens of the picture."""
    grid_hw: tuple[int, int]
    """Rows and columns of latent tokens."""
    t_K: Tensor
    """[K] flow times in (0, 1)."""
    noise_KLC: Tensor
    """[K, L, C] float32 standard normal; the draws share one context."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MiniBatch(Generic[Item]):
    """One rank's share of what one optimizer update sees: samples to reinforce or examples to imitate."""

    samples: tuple[Item, ...]
    """This rank's; shares may differ in size."""
    global_count: int
    """Samples on all ranks: what losses are divided by."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The text of one sample and where the policy wrote it. Example: prompt 7, thought 8 9 -> ids bos 7 eos bos 8 9 eos."""

    ids: list[int]
    """Every id, segments wrapped."""
    positions: list[int] = field(default_factory=list)
    """Positions whose hidden state predicts a token of the policy's: the thought's bos and every id of it but the last."""
    targets: list[int] = field(default_factory=list)
    """The ids they predict."""
    behavior_logp: list[float] = field(default_factory=list)
    """Their log-probabilities under the sampling policy; empty for text to imitate."""
    trajectory: Trajectory | None = None
    """The picture painted after this text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Padded:
    """What every micro-batch starts with."""

    ids_ST: Tensor
    """[S, T] right-padded with 0."""
    length_S: Tensor
    """[S] real ids."""

    def to(self, device: torch.device) -> Self:
        """The same with its tensors on another device."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)})


@dataclass(frozen=True, kw_only=True, slots=True)
class TextBatch(Padded):
    """One micro-batch of predicted tokens."""

    position_SN: Tensor
    """[S, N] columns of ids_ST whose hidden state predicts; 0 at padding."""
    target_SN: Tensor
    """[S, N] ids they predict; 0 at padding."""
    mask_SN: Tensor
    """[S, N] bool, False at padding."""
    behavior_logp_SN: Tensor
    """[S, N] float64; 0 at padding, and everywhere for text to imitate."""
    advantage_S: Tensor
    """[S] float64; 0 for text to imitate."""
    weight_S: Tensor
    """[S] 1, or 0 for a dummy."""
    num_pieces: int = 1
    """How many pieces its logits are taken in, the same on every rank."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowBatch(Padded):
    """One micro-batch of painted windows; ids are the text before each picture."""

    x_SWLC: Tensor
    x_next_SWLC: Tensor
    behavior_mean_SWLC: Tensor
    """[S, W, L, C] float32 of each trajectory."""
    advantage_S: Tensor
    """[S] float64."""
    weight_S: Tensor
    """[S] 1, or 0 for a dummy."""


def chain_of(sample: Sample, tokens: SpecialTokens) -> Chain:
    """Walk a sample's spans in order.

    Raises ValueError when a span follows a painting: the policy would have to see the picture, which it cannot yet.
    """
    segments: list[tuple[int, ...]] = []
    chain = Chain([])
    for span in sample.spans:
        if chain.trajectory is not None:
            raise ValueError(
                f"a {type(span).__name__} follows a painting, but pictures in the context cannot be learned from yet; "
                "end a sample with its painting"
            )
        if isinstance(span, Trajectory):
            chain = replace(chain, trajectory=span)
            continue
        if isinstance(span, Thought):
            start = len(segments_to_ids(segments, tokens))
            chain.positions.extend(range(start, start + len(span.token_ids)))
            chain.targets.extend(span.token_ids)
            chain.behavior_logp.extend(span.behavior_logp)
        segments.append(span.token_ids if isinstance(span, Given) else close_thought(span, tokens.eos_token_id))
    return replace(chain, ids=segments_to_ids(segments, tokens))


def chain_of_example(example: SftExample, tokens: SpecialTokens) -> Chain:
    """The text of an example: bos and every id of the thought predict the next, the last one eos (BAGEL.md 8)."""
    if example.thought is None:
        return Chain(segments_to_ids(example.given, tokens))
    start = len(segments_to_ids(example.given, tokens))
    targets = [*example.thought, tokens.eos_token_id]
    ids = segments_to_ids([*example.given, example.thought], tokens)
    return Chain(ids, positions=list(range(start, start + len(targets))), targets=targets)


def cut(items: Sequence[Item], length: Callable[[Item], int], size: int) -> list[list[Item]]:
    """Micro-batches of at most `size` items, sorted by length; equal lengths keep their order."""
    ordered = sorted(items, key=length)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def text_batch(chains: Sequence[Chain], advantages: Sequence[float] = ()) -> TextBatch:
    """Pad chains into one micro-batch; without advantages it is text to imitate. No chains at all make a dummy."""
    weights = [1.0] * len(chains) or [0.0]
    chains = chains or [Chain([0])]
    count = max(1, *(len(chain.targets) for chain in chains))
    rows = torch.zeros(len(chains), count, dtype=torch.int64)
    position_SN, target_SN, mask_SN, behavior_SN = rows, rows.clone(), rows.bool(), rows.double()
    for row, chain in enumerate(chains):
        position_SN[row, : len(chain.positions)] = torch.tensor(chain.positions)
        target_SN[row, : len(chain.targets)] = torch.tensor(chain.targets)
        mask_SN[row, : len(chain.targets)] = True
        behavior_SN[row, : len(chain.behavior_logp)] = torch.tensor(chain.behavior_logp, dtype=torch.float64)
    ids_ST, length_S = _padded_ids(chains)
    return TextBatch(
        ids_ST=ids_ST,
        length_S=length_S,
        position_SN=position_SN,
        target_SN=target_SN,
        mask_SN=mask_SN,
        behavior_logp_SN=behavior_SN,
        advantage_S=_float64(advantages or [0.0] * len(chains)),
        weight_S=_float64(weights),
    )


def flow_batch(chains: Sequence[Chain], advantages: Sequence[float], shape_WLC: tuple[int, int, int]) -> FlowBatch:
    """Stack the windows of chains that end in a painting, each of shape_WLC. No chains at all make a dummy."""
    ids_ST, length_S = _padded_ids(chains or [Chain([0])])
    if not chains:
        nothing = torch.zeros(1, *shape_WLC)
        windows = {"x_SWLC": nothing, "x_next_SWLC": nothing, "behavior_mean_SWLC": nothing}
        weightless = {"advantage_S": _float64([0.0]), "weight_S": _float64([0.0])}
        return FlowBatch(ids_ST=ids_ST, length_S=length_S, **windows, **weightless)
    trajectories = [chain.trajectory for chain in chains if chain.trajectory is not None]
    return FlowBatch(
        ids_ST=ids_ST,
        length_S=length_S,
        x_SWLC=torch.stack([trajectory.x_WLC for trajectory in trajectories]),
        x_next_SWLC=torch.stack([trajectory.x_next_WLC for trajectory in trajectories]),
        behavior_mean_SWLC=torch.stack([trajectory.mean_WLC for trajectory in trajectories]),
        advantage_S=_float64(advantages),
        weight_S=_float64([1.0] * len(chains)),
    )


def _padded_ids(chains: Sequence[Chain]) -> tuple[Tensor, Tensor]:
    ids_ST = pad_sequence([torch.tensor(chain.ids) for chain in chains], batch_first=True)
    return ids_ST, torch.tensor([len(chain.ids) for chain in chains])


def _float64(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
