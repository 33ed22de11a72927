"""Sizes and token ids of a BAGEL model, read from its checkpoint folder (config_files.py) and written there."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from unigrpo.models.bagel.config_files import (
    GELU,
    LLM_FILE,
    ROOT_FILE,
    VIT_FILE as VIT_FILE,
    VIT_LAYERS_UNUSED,
    read_fields,
)
from unigrpo.models.bagel.config_parts import (
    NORM_GROUPS as NORM_GROUPS,
    SPECIAL_TOKENS as SPECIAL_TOKENS,
    AutoEncoderConfig as AutoEncoderConfig,
    VisionConfig as VisionConfig,
)
from unigrpo.models.bagel.jsonfile import MAX_SIZE
from unigrpo.models.bagel.weights_file import WeightsFile

WEIGHTS_FILE = "ema.safetensors"
LATENT_TABLE = "latent_pos_embed.pos_embed"


@dataclass(frozen=True, kw_only=True, slots=True)
class BagelConfig:
    """Everything the shapes of a BAGEL model follow from. Example: hidden_size 128 and num_layers 4 is the quickstart's."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    """Query head h reads key-value head h // (num_heads / num_kv_heads)."""
    head_dim: int
    rope_theta: float
    rms_norm_eps: float
    max_position_embeddings: int
    """Longest context in RoPE positions."""
    attention_bias: bool = True
    """Whether query, key and value projections carry a bias; the output projection never does."""
    latent_patch_size: int = 2
    """A latent token is a square of this many latent pixels a side."""
    max_latent_size: int = 64
    """Side of the latent position table in latent tokens."""
    time_features: int = 256
    """Cosine and sine features of the flow time."""
    bos_token_id: int = SPECIAL_TOKENS["bos_token_id"][1]
    """`<|im_start|>`, before every text segment."""
    eos_token_id: int = SPECIAL_TOKENS["eos_token_id"][1]
    """`<|im_end|>`, after every text segment."""
    start_of_image: int = SPECIAL_TOKENS["start_of_image"][1]
    """`<|vision_start|>`, before every image block."""
    end_of_image: int = SPECIAL_TOKENS["end_of_image"][1]
    """`<|vision_end|>`, after every image block."""
    vae: AutoEncoderConfig = field(default_factory=AutoEncoderConfig)
    vision: VisionConfig | None = None
    """None for a model that was made without eyes: it takes no pictures in its prompts."""

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"{self.num_heads} query heads cannot share {self.num_kv_heads} key-value heads evenly; "
                "make num_attention_heads a multiple of num_key_value_heads"
            )
        for name, size, multiple in (("head_dim", self.head_dim, 2), ("hidden_size", self.hidden_size, 4)):
            if size % multiple:
                raise ValueError(f"{name} is {size}; RoPE and the position tables need a multiple of {multiple}")
        for name, product in self._products():
            if product > MAX_SIZE:
                raise ValueError(f"{name} comes to {product}; allowed are up to {MAX_SIZE}, lower one of them")
        for name, (text, _) in SPECIAL_TOKENS.items():
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise ValueError(
                    f"{name} ({text}) is {getattr(self, name)}, but vocab_size is {self.vocab_size}; set special_tokens in "
                    f"{ROOT_FILE} to the tokenizer's ids"
                )

    @property
    def latent_channels(self) -> int:
        """C: numbers of one latent token."""
        return self.vae.z_channels * self.latent_patch_size**2

    def _products(self) -> Iterator[tuple[str, int]]:
        """What sides of tensors are worked out of more than one size, in words."""
        yield "num_attention_heads times head_dim", self.num_heads * self.head_dim
        yield "max_latent_size squared", self.max_latent_size**2
        yield "z_channels times latent_patch_size squared", self.latent_channels
        yield "ch times the largest of ch_mult", self.vae.ch * max(self.vae.ch_mult)
        if self.vision is not None:
            yield "num_channels times patch_size squared", self.vision.patch_channels
            yield "image_size over patch_size, squared", (self.vision.image_size // self.vision.patch_size) ** 2

    def grid_hw(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of latent tokens of a height x width picture (pixels).

        Raises ValueError when a side is not a multiple of a token's pixels or longer than the position table.
        """
        stride = self.vae.downsample * self.latent_patch_size
        longest = stride * self.max_latent_size
        for name, side in (("height", height), ("width", width)):
            if side <= 0 or side % stride or side > longest:
                raise ValueError(f"a painting's {name} is {side} pixels; allowed are multiples of {stride} up to {longest}")
        return height // stride, width // stride

    @property
    def special_tokens(self) -> dict[str, int]:
        """Text of each special token -> its id."""
        return {text: getattr(self, name) for name, (text, _) in SPECIAL_TOKENS.items()}

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read a checkpoint folder; the latent position table in its weights, if there, overrules max_latent_size.

        (The released config.json says 32 where its weights hold 64 x 64 rows. Of the tables of the vision tower the config is
        right.) Raises ValueError naming file and key.
        """
        fields = read_fields(folder)
        if (side := _latent_table_side(folder / WEIGHTS_FILE)) is not None:
            fields["max_latent_size"] = side
        try:
            return cls(**fields)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None

    def llm_dict(self) -> dict[str, Any]:
        """The text expert as a Hugging Face Qwen2 config with qk_norm: llm_config.json, and what vLLM serves it from."""
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.rms_norm_eps,
            "max_position_embeddings": self.max_position_embeddings,
            "attention_bias_qkv": self.attention_bias,
            "hidden_act": "silu",
            "qk_norm": True,
            "tie_word_embeddings": False,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
        }

    def save(self, folder: Path) -> None:
        """Write llm_config.json, config.json and, for a model with eyes, vit_config.json into the folder."""
        root = {
            "model_type": "bagel",
            "latent_patch_size": self.latent_patch_size,
            "max_latent_size": self.max_latent_size,
            "timestep_embed_dim": self.time_features,
            "vae_config": {**asdict(self.vae), "downsample": self.vae.downsample},
            "special_tokens": {name: getattr(self, name) for name in SPECIAL_TOKENS},
        }
        files = {LLM_FILE: self.llm_dict(), ROOT_FILE: root}
        if self.vision is not None:
            files[VIT_FILE] = _vit_dict(self.vision)
            files[ROOT_FILE] = root | {
                "vit_max_num_patch_per_side": self.vision.max_patches_per_side,
                "connector_act": GELU,
                "interpolate_pos": False,
            }
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _vit_dict(vision: VisionConfig) -> dict[str, Any]:
    """The tower as a Hugging Face SigLIP config."""
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_hidden_layers": vision.num_layers + VIT_LAYERS_UNUSED,
        "num_attention_heads": vision.num_heads,
        "patch_size": vision.patch_size,
        "image_size": vision.image_size,
        "num_channels": vision.num_channels,
        "layer_norm_eps": vision.layer_norm_eps,
        "hidden_act": GELU,
    }


def _latent_table_side(weights: Path) -> int | None:
    """Side of the square latent position table in a weights file; None when file or table are absent."""
    if not weights.is_file():
        return None
    with WeightsFile(weights) as file:
        shape = file.shapes.get(LATENT_TABLE)
    if shape is None:
        return None
    side = math.isqrt(shape[0]) if len(shape) == 2 else 0
    if not side or side * side != shape[0]:
        raise ValueError(f"{LATENT_TABLE} in {weights} is {list(shape)}; it must have a row for each place of a square")
    return side
