"""A learned reader of the shapes world, and from what it reads the probability that a picture meets its prompt.

A small convolutional network says for every cell how likely it is empty, holds an object (and of which colour and shape), or
something that is none. Cells taken as independent, the probability of a prompt is the sum over all scenes that meet it, each
the product over its cells: exact counts, colours, relations, nothing else, as the strict score of reward_server/clauses.py. The
network is trained on pictures of random scenes and has never seen a prompt, so no prompt is better known to it than another.

The score is the probability to the power `exponent` < 1. It orders pictures as the probability does; but where one object is
wrong a probability is nearly 0 and flat, while its root still says how far away the picture is and which way leads up.

Left out on purpose: pictures of other sizes (a cell is 8 pixels), and prompts of other wordings (shapes_scenes.py).

Shapes: S pictures, K cells in reading order, N placements, HW pixels, C channels.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unigrpo.reward_models.base import RewardModel, require_pairs
from unigrpo.reward_models.shapes_scenes import Request, placements, read_prompt
from unigrpo.shapes.world import BACKGROUND, CELL_PIXELS, CELLS, COLORS, PICTURE_PIXELS, SHAPES

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
KINDS = ("empty", "object", "unrecognised")
"""What a cell may hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapesReaderConfig:
    """What the weights do not say. Example: ShapesReaderConfig(channels=24, hidden=96, exponent=0.3)."""

    channels: int = 24
    """Of the convolutions over pixels."""
    hidden: int = 96
    """Of the layers over cells."""
    exponent: float = 0.3
    """Power of the probability that is the score, in (0, 1]; .3 puts a picture with one fault near .15, with two near .02."""


@dataclass(frozen=True, slots=True)
class CellLogp:
    """Log-probabilities of every cell."""

    kind_SK3: Tensor
    """Over KINDS."""
    color_SK6: Tensor
    """Over COLORS, given an object."""
    shape_SK4: Tensor
    """Over SHAPES, given an object."""


class ShapesRewardModel(RewardModel):
    """Reads [S, 3, 24, 24] pictures and judges them against prompts of the shapes world."""

    background_3: Tensor

    def __init__(self, config: ShapesReaderConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("background_3", torch.tensor(BACKGROUND), persistent=False)
        channels, hidden = config.channels, config.hidden
        self.layers = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * channels, hidden, CELL_PIXELS // 2, stride=CELL_PIXELS // 2),
            nn.SiLU(),
            nn.Conv2d(hidden, hidden, 1),
            nn.SiLU(),
            nn.Conv2d(hidden, len(KINDS) + len(COLORS) + len(SHAPES), 1),
        )

    def read(self, images_S3HW: Tensor) -> CellLogp:
        """What every cell holds. Raises ValueError for another size of picture than 24 x 24."""
        self.require_size(*images_S3HW.shape[-2:])
        light_S3HW = images_S3HW.to(self.background_3.dtype) - self.background_3[:, None, None]
        logits_SKC = self.layers(light_S3HW).flatten(2).transpose(1, 2)
        parts = logits_SKC.split([len(KINDS), len(COLORS), len(SHAPES)], -1)
        return CellLogp(*(part.log_softmax(-1) for part in parts))

    def log_probability(self, prompts: Sequence[str], images_S3HW: Tensor) -> Tensor:
        """[S] log-probability that each picture shows exactly what its prompt asks for. Raises ValueError as `score`."""
        require_pairs(prompts, images_S3HW)
        requests = [read_prompt(prompt) for prompt in prompts]
        read = self.read(images_S3HW)
        return torch.stack([_log_probability(request, read, sample) for sample, request in enumerate(requests)])

    def score(self, prompts: Sequence[str], images_S3HW: Tensor) -> Tensor:
        return (self.config.exponent * self.log_probability(prompts, images_S3HW)).exp()

    def require_size(self, height: int, width: int) -> None:
        if (height, width) != (PICTURE_PIXELS, PICTURE_PIXELS):
            raise ValueError(
                f"got a picture of {height} x {width} pixels; the reward model of the shapes world reads "
                f"{PICTURE_PIXELS} x {PICTURE_PIXELS}"
            )

    def require_prompt(self, prompt: str) -> None:
        placements(read_prompt(prompt))

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors into an existing folder."""
        save_file(self.state_dict(), folder / WEIGHTS_FILE)
        (folder / CONFIG_FILE).write_text(json.dumps(asdict(self.config), indent=2) + "\n", encoding="utf-8")


def _log_probability(request: Request, read: CellLogp, sample: int) -> Tensor:
    """Sum over the placements that meet a request of the product over cells, in logs; a scalar."""
    object_K, empty_K = (read.kind_SK3[sample, :, KINDS.index(kind)] for kind in ("object", "empty"))
    owners = [empty_K]
    for group in request.groups:
        logp_K = object_K + read.shape_SK4[sample, :, SHAPES.index(group.shape)]
        if group.color is not None:
            logp_K = logp_K + read.color_SK6[sample, :, COLORS.index(group.color)]
        owners.append(logp_K)
    owner_NK = placements(request).to(empty_K.device)
    cell_K = torch.arange(len(CELLS), device=empty_K.device)
    return torch.stack(owners)[owner_NK, cell_K].sum(-1).logsumexp(0)


def load_shapes_reward(folder: Path) -> ShapesRewardModel:
    """Read a folder that `save` wrote; frozen. Raises ValueError, naming the file, when it is not whole."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} lacks {name}; give a folder written by `unigrpo reward fit`")
    try:
        config = ShapesReaderConfig(**json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")))
        model = ShapesRewardModel(config)
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder} holds no reward model of the shapes world ({error}); write it again") from error
    return model.requires_grad_(False).eval()
