"""Samples packed into one row for training: no padding, and pictures, texts and noised latents in any order.

A sample is a row of *splits*. Text is causal. A given picture is bidirectional inside. A noised one is too, and
nothing else sees it, so that one context serves any number of noised copies. Every picture stands between two markers and takes
one RoPE position, a noised one none. The packed row holds the ids of all samples first (markers among them), then all patches,
then all latents; `places` says where each split went.

Shapes: U ids, V patches, L latent tokens, T = U + V + L, B noise levels, C channels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from unigrpo.layout import close_thought, segments_to_ids
from unigrpo.models.bagel.attention import Attend, Block, block_attention
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.models.bagel.preprocess import normalised, table_rows, to_patches
from unigrpo.types import Given, GivenPicture, Thought


@dataclass(frozen=True, slots=True)
class Text:
    """A causal split of ids, the bos and eos around a segment included."""

    ids: Sequence[int]

    @property
    def num_tokens(self) -> int:
        """Of the packed row."""
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Clean:
    """A given picture as latent tokens."""

    latent_LC: Tensor
    grid_hw: tuple[int, int]

    @property
    def num_tokens(self) -> int:
        """Of the packed row, markers included."""
        return len(self.latent_LC) + 2


@dataclass(frozen=True, slots=True)
class Seen:
    """A given picture as patches of normalised pixels."""

    patches_VC: Tensor
    grid_hw: tuple[int, int]

    @property
    def num_tokens(self) -> int:
        """Of the packed row, markers included."""
        return len(self.patches_VC) + 2


@dataclass(frozen=True, slots=True)
class Noised:
    """Latent tokens at flow time t, whose velocity is asked for."""

    x_LC: Tensor
    t: float
    grid_hw: tuple[int, int]

    @property
    def num_tokens(self) -> int:
        """Of the packed row, markers included."""
        return len(self.x_LC) + 2


@dataclass(frozen=True, slots=True)
class Gap:
    """A picture that condition dropout left out: its position stays taken."""

    @property
    def num_tokens(self) -> int:
        """None."""
        return 0


Split = Text | Clean | Seen | Noised | Gap


def splits_of(spans: Iterable[Given | GivenPicture | Thought], config: BagelConfig) -> list[Split]:
    """What the model reads of spans that a policy saw or said: a picture is latents and patches, a segment is wrapped."""
    splits: list[Split] = []
    for span in spans:
        if isinstance(span, GivenPicture):
            splits += picture_splits(span, config)
        else:
            ids = span.token_ids if isinstance(span, Given) else close_thought(span, config.eos_token_id)
            splits.append(Text(segments_to_ids([ids], config)))
    return splits


def picture_splits(picture: GivenPicture, config: BagelConfig) -> list[Split]:
    """Its latents, then its patches. Raises ValueError for a model without vision."""
    if config.vision is None:
        raise ValueError(
            "a prompt holds a picture, but this model has no vision tower; use a checkpoint that has one, or prompts of text"
        )
    latents: Split = Gap() if picture.latent_LC is None else Clean(picture.latent_LC, picture.grid_hw)
    if picture.seen_HW3 is None:
        return [latents, Gap()]
    patch = config.vision.patch_size
    height, width, _ = picture.seen_HW3.shape
    return [latents, Seen(to_patches(normalised(picture.seen_HW3), patch), (height // patch, width // patch))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """Samples in one row. Example: 2 samples of 9 and 4 ids, one with a picture of 6 patches -> ids_U [13 + 2 markers]."""

    ids_U: Tensor
    """[U] ids of texts and markers."""
    patches_VC: Tensor
    """[V, C] patches of normalised pixels."""
    patch_row_V: Tensor
    """[V] their rows in the vision position tables."""
    latents_LC: Tensor
    """[L, C] latent tokens, clean and noised."""
    latent_row_L: Tensor
    """[L] their rows in the latent position table."""
    level_L: Tensor
    """[L] which of t_B each one has."""
    t_B: Tensor
    """[B] float64 flow times; 0 of a clean picture."""
    noised_N: Tensor
    """[N] places among the latents whose velocity is asked for."""
    position_T: Tensor
    """[T] RoPE positions of ids, patches and latents."""
    attend: Attend
    """Attention among ids, patches and latents."""
    attend_patches: Attend | None
    """Attention of the vision tower, a picture at a time; None without patches."""
    sees: bool
    """Whether the vision tower runs, be it over nothing: ranks that share its weights (ZeRO-3) keep step."""
    paints: bool
    """Whether the generation expert runs, likewise."""
    places: tuple[tuple[range, ...], ...]
    """Of each sample's splits: where in ids_U (texts), patches_VC (seen) or latents_LC (clean, noised) it went."""
    tokens: tuple[tuple[int, ...], ...]
    """Of each sample: its tokens' places in the row, in their order."""
    next_position_S: tuple[int, ...]
    """Of each sample: the RoPE position of what would follow."""


def pack(
    samples: Sequence[Sequence[Split]],
    config: BagelConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    sees: bool = False,
    paints: bool = False,
) -> Packed:
    """One row of all samples, on `device`; `dtype` is the compute's, which the kernel is chosen by.

    `sees` and `paints` ask for a tower or expert that these samples alone would not need. There is at least one token.
    """
    row = _Row(config)
    places = [row.add(splits) for splits in samples]
    return row.packed(places, device=device, dtype=dtype, sees=sees, paints=paints)


@dataclass
class _Stream:
    """Tokens of one kind and their RoPE positions."""

    positions: list[int] = field(default_factory=list)

    def take(self, positions: Iterable[int]) -> range:
        start = len(self.positions)
        self.positions.extend(positions)
        return range(start, len(self.positions))


_Run = tuple[int, range]
"""Which stream (0 ids, 1 patches, 2 latents) and which places in it, one after another."""


class _Row:
    """Walks samples and collects their tokens, positions and blocks."""

    def __init__(self, config: BagelConfig) -> None:
        self._config = config
        self._streams = [_Stream(), _Stream(), _Stream()]
        self._ids: list[int] = []
        self._patches: list[Tensor] = []
        self._patch_rows: list[Tensor] = []
        self._latents: list[Tensor] = []
        self._latent_rows: list[Tensor] = []
        self._times: list[float] = []
        self._noised: list[range] = []
        self._blocks: list[tuple[list[_Run], list[_Run], bool]] = []
        self._tokens: list[list[_Run]] = []
        self._next: list[int] = []

    def add(self, splits: Sequence[Split]) -> tuple[range, ...]:
        """One sample; where each of its splits went."""
        position = 0
        visible: list[_Run] = []
        tokens: list[_Run] = []
        text: list[_Run] = []  # since the last given picture: texts in a row are one causal block
        places = []
        for split in splits:
            if isinstance(split, Gap):
                position += 1
                places.append(range(0))
                continue
            if isinstance(split, Text):
                place = self._add_ids(split.ids, range(position, position + len(split.ids)))
                own = [(0, place)]
                text += own
                position += len(place)
            else:
                place, own = self._add_picture(split, position)
                if isinstance(split, Noised):
                    self._blocks.append((own, [*visible, *own], False))
                else:
                    self._flush(text, visible)
                    text = []
                    self._blocks.append((own, [*visible, *own], False))
                    position += 1
            tokens += own
            if not isinstance(split, Noised):
                visible += own
            places.append(place)
        self._flush(text, visible)
        self._tokens.append(tokens)
        self._next.append(position)
        return tuple(places)

    def _flush(self, text: list[_Run], visible: list[_Run]) -> None:
        """Texts are the last that became visible, so what is visible ends with them."""
        if text:
            self._blocks.append((text, list(visible), True))

    def _add_ids(self, ids: Sequence[int], positions: Iterable[int]) -> range:
        self._ids.extend(ids)
        return self._streams[0].take(positions)

    def _add_picture(self, split: Clean | Seen | Noised, position: int) -> tuple[range, list[_Run]]:
        start = self._add_ids([self._config.start_of_image], [position])
        if isinstance(split, Seen):
            stream, place = 1, self._add_patches(split, position)
        else:
            stream, place = 2, self._add_latents(split, position)
        end = self._add_ids([self._config.end_of_image], [position])
        return place, [(0, start), (stream, place), (0, end)]

    def _add_patches(self, split: Seen, position: int) -> range:
        assert self._config.vision is not None
        self._patches.append(split.patches_VC)
        self._patch_rows.append(table_rows(split.grid_hw, self._config.vision.max_patches_per_side))
        return self._streams[1].take([position] * len(split.patches_VC))

    def _add_latents(self, split: Clean | Noised, position: int) -> range:
        latents_LC = split.x_LC if isinstance(split, Noised) else split.latent_LC
        self._latents.append(latents_LC)
        self._latent_rows.append(table_rows(split.grid_hw, self._config.max_latent_size))
        assert len(self._latent_rows[-1]) == len(latents_LC), f"{len(latents_LC)} latents do not fill {split.grid_hw}"
        self._times.append(split.t if isinstance(split, Noised) else 0.0)
        place = self._streams[2].take([position] * len(latents_LC))
        if isinstance(split, Noised):
            self._noised.append(place)
        return place

    def packed(
        self, places: list[tuple[range, ...]], *, device: torch.device, dtype: torch.dtype, sees: bool, paints: bool
    ) -> Packed:
        """Everything added so far."""
        sizes = [len(stream.positions) for stream in self._streams]
        offsets = (0, sizes[0], sizes[0] + sizes[1])

        def joint(runs: Iterable[_Run]) -> tuple[int, ...]:
            shifted = (range(offsets[stream] + run.start, offsets[stream] + run.stop) for stream, run in runs)
            return tuple(chain.from_iterable(shifted))

        blocks = [Block(joint(query), joint(key), causal) for query, key, causal in self._blocks]
        vision_channels = 0 if self._config.vision is None else self._config.vision.patch_channels
        return Packed(
            ids_U=torch.tensor(self._ids, dtype=torch.int64, device=device),
            patches_VC=_joined(self._patches, torch.zeros(0, vision_channels)).to(device),
            patch_row_V=_joined(self._patch_rows, torch.zeros(0, dtype=torch.int64)).to(device),
            latents_LC=_joined(self._latents, torch.zeros(0, self._config.latent_channels)).to(device),
            latent_row_L=_joined(self._latent_rows, torch.zeros(0, dtype=torch.int64)).to(device),
            level_L=torch.arange(len(self._latents))
            .repeat_interleave(torch.tensor([len(each) for each in self._latents], dtype=torch.int64))
            .to(device),
            t_B=torch.tensor(self._times, dtype=torch.float64, device=device),
            noised_N=torch.tensor(list(chain(*self._noised)), dtype=torch.int64, device=device),
            position_T=torch.tensor(list(chain(*(stream.positions for stream in self._streams))), device=device),
            attend=block_attention(blocks, device, dtype),
            attend_patches=self._attend_patches(device, dtype),
            sees=sees or bool(self._patches),
            paints=paints or bool(self._latents),
            places=tuple(places),
            tokens=tuple(joint(tokens) for tokens in self._tokens),
            next_position_S=tuple(self._next),
        )

    def _attend_patches(self, device: torch.device, dtype: torch.dtype) -> Attend | None:
        if not self._patches:
            return None
        bounds, start = [], 0
        for patches_VC in self._patches:
            bounds.append(tuple(range(start, start := start + len(patches_VC))))
        return block_attention([Block(each, each, causal=False) for each in bounds], device, dtype)


def _joined(parts: list[Tensor], nothing: Tensor) -> Tensor:
    return torch.cat(parts) if parts else nothing
