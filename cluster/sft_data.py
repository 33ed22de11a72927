"""What each step of fine-tuning imitates: examples of either source as tokens and latents, a function of (seed, step) alone.

Shapes: K noise draws, L latent tokens, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from configs.load import ConfigError
from configs.schema import SftConfig
from configs.sft import ConditionDropout, FileData, ShapesData
from learner.batch import SftExample
from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.models.bagel.encode import given_picture, latent_tokens
from unigrpo.models.bagel.packing import Noised, splits_of
from unigrpo.models.bagel.preprocess import ResizeRule, latent_rule, resized
from unigrpo.seeds import derive_seed
from unigrpo.sft_file import SftLine, lines_of_step
from unigrpo.sft_item import SftItem
from unigrpo.shapes.sft_data import sft_items
from unigrpo.tokenizer import Tokenizer
from unigrpo.types import Given, GivenPicture


@dataclass(frozen=True, kw_only=True)
class Material:
    """What examples are made with and of."""

    model: BagelConfig
    autoencoder: AutoEncoder
    tokenizer: Tokenizer
    lines: Sequence[SftLine] = ()
    """Of a data file; none where data is generated."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Which conditions one example leaves out."""

    text: bool
    latents: bool
    patches: bool


def dropped(dropout: ConditionDropout, *, seed: int, step: int, index: int) -> Dropped:
    """The draws of the example that stands at `index` in a step, each condition on its own."""
    text, latents, patches = np.random.default_rng(derive_seed(seed, "sft dropout", step, index)).random(3)
    return Dropped(text < dropout.text, latents < dropout.latents, patches < dropout.patches)


def picture_rule(config: SftConfig, model: BagelConfig) -> ResizeRule:
    """The sizes that pictures are brought to: the model's own, or up to data.longest_side."""
    rule, longest = latent_rule(model), config.data.longest_side if isinstance(config.data, FileData) else None
    return rule if longest is None else replace(rule, longest=longest)


def shifted(t_K: Tensor, shift: float) -> Tensor:
    """t' = s t / (1 + (s - 1) t), [K]; a shift of 1 changes no bit."""
    return shift * t_K / (1 + (shift - 1) * t_K)


def step_examples(config: SftConfig, step: int, material: Material) -> list[SftExample]:
    """What a step imitates: its items encoded, conditions dropped, logit-normal flow times and noise drawn.

    Raises ConfigError naming the line of a picture that cannot be decoded.
    """
    items, rule = step_items(config, step, material.lines), picture_rule(config, material.model)
    generator = torch.Generator().manual_seed(derive_seed(config.seed, "sft noise", step))
    pictures = [latent_tokens(resized(item.image_HW3, rule), material.autoencoder, material.model, generator) for item in items]
    examples = []
    for index, (item, (latent_LC, grid_hw)) in enumerate(zip(items, pictures, strict=True)):
        without = dropped(config.dropout, seed=config.seed, step=step, index=index)
        source = torch.Generator().manual_seed(derive_seed(config.seed, "sft source", step, index))
        t_K = torch.randn(config.noise_draws, generator=generator).sigmoid()
        examples.append(
            SftExample(
                given=given(item, without, rule, material, source),
                thought=None if item.thought is None or without.text else material.tokenizer.encode(item.thought),
                latent_LC=latent_LC,
                grid_hw=grid_hw,
                t_K=shifted(t_K, config.timestep_shift),
                noise_KLC=torch.randn((config.noise_draws, *latent_LC.shape), generator=generator),
            )
        )
    return examples


def step_items(config: SftConfig, step: int, lines: Sequence[SftLine]) -> list[SftItem]:
    """The items of a step with their pictures decoded. Raises ConfigError as step_examples."""
    match config.data:
        case ShapesData() as data:
            return sft_items(
                config.seed,
                step,
                count=config.batch_size,
                wrong_plans=data.wrong_plans,
                wrong_objects=data.wrong_objects,
                without_thought=data.without_thought,
            )
        case FileData() as data:
            chosen = lines_of_step(lines, seed=config.seed, step=step, count=config.batch_size)
            try:
                return [line.item(data.system_prompt) for line in chosen]
            except ValueError as error:
                raise ConfigError(str(error)) from None


def given(
    item: SftItem, without: Dropped, rule: ResizeRule, material: Material, generator: torch.Generator
) -> tuple[Given | GivenPicture, ...]:
    """What stands before the thought: system prompt, source picture, prompt."""
    spans: list[Given | GivenPicture] = []
    if item.system:
        spans.append(Given(token_ids=material.tokenizer.encode(item.system)))
    if item.source_HW3 is not None:
        spans.append(
            given_picture(
                item.source_HW3,
                rule,
                material.autoencoder,
                material.model,
                generator,
                latents=not without.latents,
                patches=not without.patches,
            )
        )
    if not without.text:
        spans.append(Given(token_ids=material.tokenizer.encode(item.prompt)))
    return tuple(spans)


def num_tokens(example: SftExample, model: BagelConfig) -> int:
    """What an example costs: the tokens of its splits as the learner packs them, its own picture once a draw."""
    thought = [] if example.thought is None else [Given(token_ids=example.thought)]
    noised = [Noised(example.latent_LC, t, example.grid_hw) for t in example.t_K.tolist()]
    splits = [*splits_of([*map(_without_pixels, example.given), *thought], model), *noised]
    return sum(split.num_tokens for split in splits)


def _without_pixels(span: Given | GivenPicture) -> Given | GivenPicture:
    """A span of the same size: to count patches, none need be cut."""
    if isinstance(span, Given) or span.seen_HW3 is None:
        return span
    return replace(span, seen_HW3=span.seen_HW3.to("meta"))
