"""Which prompts a step trains on: a function of (seed, step), so that a resumed run sees the same ones."""

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from configs.reward import Reward
from configs.schema import Prompts
from reward_server.benchmarks import EXAM
from reward_server.verifiers import validate_metadata
from unigrpo.models.bagel.config import SPECIAL_TOKENS
from unigrpo.prompts import read_prompt_file
from unigrpo.seeds import derive_seed
from unigrpo.shapes.prompts import shapes_prompts
from unigrpo.tokenizer import Tokenizer
from unigrpo.types import Given, Prompt


class PromptStream:
    """Endless epochs over a prompt set, each in an order of its own."""

    def __init__(self, prompts: Sequence[Prompt], *, seed: int, per_step: int) -> None:
        self._prompts, self._seed, self._per_step = prompts, seed, per_step

    def batch(self, step: int) -> list[Prompt]:
        """The prompts of one step, `per_step` of them."""
        first = step * self._per_step
        return [self._at(position) for position in range(first, first + self._per_step)]

    def _at(self, position: int) -> Prompt:
        epoch, place = divmod(position, len(self._prompts))
        order = list(range(len(self._prompts)))
        random.Random(derive_seed(self._seed, "prompts", epoch)).shuffle(order)
        return self._prompts[order[place]]


def asked(prompt: Prompt) -> tuple[str, Path | None]:
    """What makes two prompts the same one: the text and, of an edit, the picture."""
    return prompt.text, prompt.picture


def system_spans(system_prompt: str, tokenizer: Tokenizer) -> tuple[Given, ...]:
    """What every chain begins with: the system prompt, nothing where it is empty."""
    return (Given(token_ids=plain_ids(system_prompt, tokenizer)),) if system_prompt else ()


def plain_ids(text: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Token ids of a text that a user wrote.

    Raises ValueError naming words that the vocabulary does not have, or a special token of the model.
    """
    token_ids = tokenizer.encode(text)
    for special, _ in SPECIAL_TOKENS.values():
        if tokenizer.id_of(special) in token_ids:
            raise ValueError(
                f"the special token {special} must not stand in a text, as it would break the layout of the context; write it "
                "another way"
            )
    return token_ids


def load_prompts(config: Prompts, reward: Reward) -> Sequence[Prompt]:
    """The prompt set a config names. Raises ValueError naming file and line where it is broken or `reward` could not judge."""
    if config.kind == "shapes":
        prompts = shapes_prompts(config.split)
        for prompt in prompts:
            _require_judgeable(prompt, reward)
        return prompts
    path = EXAM if config.kind == "exam" else config.path
    assert path is not None, "checked before anything starts"
    return read_prompt_file(path, check=partial(validate_metadata, reward))


def _require_judgeable(prompt: Prompt, reward: Reward) -> None:
    try:
        validate_metadata(reward, prompt.metadata)
    except ValueError as error:
        raise ValueError(
            f"a reward of kind {reward.kind} cannot judge the prompts of the shapes world, such as {prompt.text!r}: {error}"
        ) from None
