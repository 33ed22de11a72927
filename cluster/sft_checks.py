"""Whether a user's fine-tuning data suits the model it is to teach: lengths, words, pictures to edit, sizes to paint."""

from collections.abc import Iterator, Sequence

from cluster.prompts import plain_ids
from configs.load import ConfigError
from configs.roles import ParameterGroup
from configs.sft import FileData
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.sft_file import SftLine, read_sft_file, refuse
from unigrpo.tokenizer import Tokenizer


def fitting_lines(
    data: FileData, model: BagelConfig, tokenizer: Tokenizer, trains: Sequence[ParameterGroup]
) -> tuple[SftLine, ...]:
    """The lines of a data file, every one of which the model can read, say and paint, some of which `trains` can learn from.

    Raises ConfigError with the faults.
    """
    assert data.path is not None, "checked before"
    if data.longest_side is not None:
        try:
            model.grid_hw(data.longest_side, data.longest_side)
        except ValueError as error:
            raise ConfigError(f"data.longest_side: {error}") from None
    try:
        lines = read_sft_file(data.path)
        refuse([f"{line.place}: {fault}" for line in lines for fault in _faults(line, data, model, tokenizer)], data.path)
    except ValueError as error:
        raise ConfigError(f"data.path: {error}") from None
    if "generation" not in trains and not any(line.thought for line in lines):
        raise ConfigError(
            f"learner.trains is {list(trains)}, which learns from thoughts alone, but data.path {data.path} holds none; add "
            "generation there, or give thoughts"
        )
    return lines


def told(lines: tuple[SftLine, ...], num_examples: int) -> str:
    """What a run of so many examples takes from a data file, in words."""
    thinking, editing = sum(line.thought is not None for line in lines), sum(line.source_image is not None for line in lines)
    return (
        f"{len(lines)} examples, {thinking} with a thought, {editing} with a source picture; "
        f"each is seen {num_examples / len(lines):.4g} times"
    )


def _faults(line: SftLine, data: FileData, model: BagelConfig, tokenizer: Tokenizer) -> Iterator[str]:
    if line.source_image is not None and model.vision is None:
        yield "source_image is given, but the model has no vision tower; leave it out, or start from a model that sees"
    texts = {"prompt": line.prompt}
    if line.thought is not None:
        texts |= {"thought": line.thought} | ({"data.system_prompt": data.system_prompt} if data.system_prompt else {})
    positions = 1 + 2 * (line.source_image is not None)  # one a picture block: what is painted, latents, patches
    for key, text in texts.items():
        try:
            positions += len(plain_ids(text, tokenizer)) + 2
        except ValueError as error:
            yield f"{key}: {error}"
    if positions > model.max_position_embeddings:
        yield (
            f"the example takes {positions} positions, but the model has {model.max_position_embeddings}; "
            "shorten its prompt or thought"
        )
