"""Whether the pictures that prompts edit can be edited: by a model that sees, at the size the run paints."""

from collections.abc import Sequence
from pathlib import Path

from configs.schema import SamplerConfig
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.models.bagel.preprocess import latent_rule, read_source
from unigrpo.types import Prompt


def require_editable(prompts: Sequence[Prompt], file: Path, sampler: SamplerConfig, model: BagelConfig) -> None:
    """Every picture of a prompt file is read, once. Raises ValueError naming file, line and picture of the first fault."""
    sizes: dict[Path, tuple[int, int]] = {}
    for prompt in prompts:
        if prompt.picture is None:
            continue
        line = f"{file}:{prompt.index + 1}"
        if model.vision is None:
            raise ValueError(
                f"{line}: prompt {prompt.text!r} edits a picture, but the model has no vision tower to see it; set model.path "
                "to one that has, or leave picture out"
            )
        if prompt.picture not in sizes:
            sizes[prompt.picture] = _size_of(prompt.picture, line)
        height, width = latent_rule(model).size(*sizes[prompt.picture])
        if (height, width) != (sampler.height, sampler.width):
            raise ValueError(
                f"{line}: prompt {prompt.text!r} edits {prompt.picture}, which comes to {height} x {width} pixels (height x "
                f"width) where the model reads it, but the run paints {sampler.height} x {sampler.width}; crop or scale the "
                f"picture, or set sampler.height={height} and sampler.width={width}"
            )


def _size_of(picture: Path, line: str) -> tuple[int, int]:
    try:
        height, width, _ = read_source(picture).shape
    except ValueError as error:
        raise ValueError(f"{line}: picture {error}") from None
    return height, width
