"""Sizes and token ids of a BAGEL model, read from and written to its checkpoint folder.

Two layouts are read: the released one (llm_config.json beside config.json) and a single config.json that holds all sections.
Defaults are the released model's, for what its config.json leaves unsaid.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError, safe_open

from unigrpo.models.bagel.jsonfile import Section, read_json

LLM_FILE = "llm_config.json"
ROOT_FILE = "config.json"
WEIGHTS_FILE = "ema.safetensors"
LATENT_TABLE = "latent_pos_embed.pos_embed"
SPECIAL_TOKENS = {"bos_token_id": 151644, "eos_token_id": 151645, "start_of_image": 151652, "end_of_image": 151653}
"""Qwen2.5's ids of <|im_start|>, <|im_end|>, <|vision_start|>, <|vision_end|>."""
NORM_GROUPS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoEncoderConfig:
    """Sizes of the autoencoder; the defaults are FLUX's, which BAGEL took over."""

    resolution: int = 256
    """Pixels a side it was trained at; nothing is computed from it."""
    in_channels: int = 3
    """Channels of a picture."""
    ch: int = 128
    """Channels of the finest level."""
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    """Channels of each level as multiples of ch; every level but the last halves the picture."""
    num_res_blocks: int = 2
    """Residual blocks a level in the encoder; the decoder has one more."""
    z_channels: int = 16
    """Channels of a latent."""
    scale_factor: float = 0.3611
    """latent = scale_factor * (z - shift_factor)."""
    shift_factor: float = 0.1159
    """See scale_factor."""

    def __post_init__(self) -> None:
        for level, multiple in enumerate(self.ch_mult):
            if (self.ch * multiple) % NORM_GROUPS:
                raise ValueError(
                    f"vae_config: ch {self.ch} times ch_mult[{level}] {multiple} is {self.ch * multiple} channels, which "
                    f"{NORM_GROUPS} normalisation groups cannot share; make it a multiple of {NORM_GROUPS}"
                )

    @property
    def downsample(self) -> int:
        """Pixels of a picture's side to one of its latent."""
        return int(2 ** (len(self.ch_mult) - 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionConfig:
    """Sizes of the tower that reads pictures; the released one is SigLIP so400m at 980 px."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    """Layers that exist: one less than vit_config.json says (BAGEL.md 1)."""
    num_heads: int
    patch_size: int
    """Pixels a side of one patch."""
    image_size: int
    """Pixels a side of the largest picture; its patches are the rows of the tower's own position table."""
    num_channels: int
    """Of a picture."""
    layer_norm_eps: float
    max_patches_per_side: int
    """Side of both position tables in patches: the row stride of position ids, whatever the picture's width."""

    @property
    def patch_channels(self) -> int:
        """Numbers of one patch."""
        return self.num_channels * self.patch_size**2


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
    bos_token_id: int = SPECIAL_TOKENS["bos_token_id"]
    """`<|im_start|>`, before every text segment."""
    eos_token_id: int = SPECIAL_TOKENS["eos_token_id"]
    """`<|im_end|>`, after every text segment."""
    start_of_image: int = SPECIAL_TOKENS["start_of_image"]
    """`<|vision_start|>`, before every image block."""
    end_of_image: int = SPECIAL_TOKENS["end_of_image"]
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
        for name in SPECIAL_TOKENS:
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise ValueError(f"{name} is {getattr(self, name)}; the vocabulary has {self.vocab_size} ids")

    @property
    def latent_channels(self) -> int:
        """C: numbers of one latent token."""
        return self.vae.z_channels * self.latent_patch_size**2

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

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read a checkpoint folder; the latent position table in its weights, if there, overrules max_latent_size.

        (The released config.json says 32 where its weights hold 64 x 64 rows.) Raises ValueError naming file and key.
        """
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder; give one that holds {WEIGHTS_FILE} and {ROOT_FILE}")
        root = Section(read_json(folder / ROOT_FILE), str(folder / ROOT_FILE))
        released = (folder / LLM_FILE).is_file()
        llm = Section(read_json(folder / LLM_FILE), str(folder / LLM_FILE)) if released else root.section("llm_config")
        fields = _llm_fields(llm) | _root_fields(root)
        if (side := _table_side(folder / WEIGHTS_FILE)) is not None:
            fields["max_latent_size"] = side
        return cls(**fields)

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
        """Write llm_config.json and config.json into the folder."""
        root = {
            "latent_patch_size": self.latent_patch_size,
            "max_latent_size": self.max_latent_size,
            "timestep_embed_dim": self.time_features,
            "vae_config": {**asdict(self.vae), "downsample": self.vae.downsample},
            "special_tokens": {name: getattr(self, name) for name in SPECIAL_TOKENS},
        }
        for name, content in ((LLM_FILE, self.llm_dict()), (ROOT_FILE, root)):
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _llm_fields(llm: Section) -> dict[str, Any]:
    if (activation := llm.values.get("hidden_act", "silu")) != "silu":
        raise ValueError(f"hidden_act is {activation!r} in {llm.place}; both experts of BAGEL use 'silu'")
    if (scaling := llm.values.get("rope_scaling")) is not None:
        raise ValueError(f"rope_scaling is {scaling!r} in {llm.place}; BAGEL's positions are unscaled, remove it")
    hidden_size, num_heads = llm.size("hidden_size"), llm.size("num_attention_heads")
    return {
        "vocab_size": llm.size("vocab_size"),
        "hidden_size": hidden_size,
        "intermediate_size": llm.size("intermediate_size"),
        "num_layers": llm.size("num_hidden_layers"),
        "num_heads": num_heads,
        "num_kv_heads": llm.size("num_key_value_heads"),
        "head_dim": llm.size("head_dim", hidden_size // num_heads),
        "rope_theta": llm.number("rope_theta"),
        "rms_norm_eps": llm.number("rms_norm_eps"),
        "max_position_embeddings": llm.size("max_position_embeddings"),
        "attention_bias": llm.flag("attention_bias_qkv", True),
    }


def _root_fields(root: Section) -> dict[str, Any]:
    tokens = root.section("special_tokens") if "special_tokens" in root.values else Section({}, root.place)
    return {
        "latent_patch_size": root.size("latent_patch_size"),
        "max_latent_size": root.size("max_latent_size"),
        "time_features": root.size("timestep_embed_dim", 256),
        "vae": _vae(root.section("vae_config")),
        **{name: tokens.whole(name, default) for name, default in SPECIAL_TOKENS.items()},
    }


def _vae(section: Section) -> AutoEncoderConfig:
    flux = AutoEncoderConfig()
    ch_mult = section.values.get("ch_mult", list(flux.ch_mult))
    if not isinstance(ch_mult, list) or not ch_mult or not all(isinstance(each, int) and each > 0 for each in ch_mult):
        raise ValueError(f"ch_mult is {ch_mult!r} in {section.place}; it must be a list of positive integers")
    config = AutoEncoderConfig(
        resolution=section.size("resolution", flux.resolution),
        in_channels=section.size("in_channels", flux.in_channels),
        ch=section.size("ch", flux.ch),
        ch_mult=tuple(ch_mult),
        num_res_blocks=section.whole("num_res_blocks", flux.num_res_blocks),
        z_channels=section.size("z_channels", flux.z_channels),
        scale_factor=section.number("scale_factor", flux.scale_factor),
        shift_factor=section.number("shift_factor", flux.shift_factor),
    )
    for name, implied in (("downsample", config.downsample), ("out_ch", config.in_channels)):
        if (given := section.size(name, implied)) != implied:
            raise ValueError(f"{name} is {given} in {section.place}, but its other values imply {implied}; make them agree")
    return config


def _table_side(weights: Path) -> int | None:
    """Side of the square latent position table in a weights file; None when file or table are absent."""
    if not weights.is_file():
        return None
    try:
        with safe_open(weights, "pt") as file:
            if LATENT_TABLE not in file.keys():  # noqa: SIM118
                return None
            rows = file.get_slice(LATENT_TABLE).get_shape()[0]
    except SafetensorError as error:
        raise ValueError(f"{weights} cannot be read ({error}): it is truncated or damaged; copy it again") from error
    side = math.isqrt(rows)
    if side * side != rows:
        raise ValueError(f"{LATENT_TABLE} in {weights} has {rows} rows; a square table has a square number of them")
    return side
