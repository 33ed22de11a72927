"""The JSON files of a checkpoint folder, read strictly into the fields of a BagelConfig.

Two layouts are read: the released one (llm_config.json and vit_config.json beside config.json) and a single config.json that
holds them as sections. Hugging Face's own keys in them are passed over where they change nothing, and refused where they ask
for another architecture. Defaults are the released model's, for what its files leave unsaid.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unigrpo.models.bagel.config_parts import SPECIAL_TOKENS, AutoEncoderConfig, VisionConfig
from unigrpo.models.bagel.jsonfile import MAX_LAYERS, Section, read_json

ROOT_FILE = "config.json"
LLM_FILE = "llm_config.json"
VIT_FILE = "vit_config.json"
GELU = "gelu_pytorch_tanh"
FIXED_LLM = {
    "hidden_act": "silu",
    "qk_norm": True,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "rope_scaling": None,
    "attention_dropout": 0.0,
}
"""What the language model of every BAGEL is like, whether its file says so or not."""
FIXED_VIT = {"hidden_act": GELU, "rope": False, "attention_dropout": 0.0}
FIXED_ROOT = {"connector_act": GELU, "interpolate_pos": False}
VIT_LAYERS_UNUSED = 1
"""The tower's last layer: vit_config.json counts it, the weights do not hold it."""
MAX_LEVELS = 16
"""Of the autoencoder; each but one halves the picture."""


def read_fields(folder: Path) -> dict[str, Any]:
    """The fields of a BagelConfig. Raises ValueError naming file and key."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give a BAGEL checkpoint folder, which holds {ROOT_FILE}")
    if not (folder / ROOT_FILE).is_file() and (policies := _policies(folder)):
        raise ValueError(f"{folder} belongs to a run and is no BAGEL checkpoint folder itself; its newest is {policies[-1]}")
    root = Section(read_json(folder / ROOT_FILE), str(folder / ROOT_FILE))
    _require(root, FIXED_ROOT)
    llm = _part(folder / LLM_FILE, root)
    vit = _part(folder / VIT_FILE, root) if (folder / VIT_FILE).is_file() or "vit_config" in root.values else None
    return _llm_fields(llm) | _root_fields(root) | {"vision": None if vit is None else _vision(vit, root)}


def _policies(folder: Path) -> list[Path]:
    """The folders in the released layout below a run's folder or one of its checkpoints; the newest last."""
    places = ("policy", "checkpoints/step-*/policy")
    return [path.parent for place in places for path in sorted(folder.glob(f"{place}/{ROOT_FILE}"))]


def _part(path: Path, root: Section) -> Section:
    """A file of its own, or the section of config.json that is called as it."""
    if path.is_file():
        return Section(read_json(path), str(path))
    if path.stem not in root.values:
        raise ValueError(f"{path} is missing; a BAGEL checkpoint folder holds it, or {path.stem} in its {ROOT_FILE}")
    return root.section(path.stem)


def _require(section: Section, fixed: Mapping[str, Any]) -> None:
    """Raises ValueError for a value that asks for another architecture; null and nothing say nothing."""
    for key, only in fixed.items():
        if (given := section.values.get(key)) not in (None, only):
            raise ValueError(
                f"{key} is {json.dumps(given)} in {section.place}, but every BAGEL has {json.dumps(only)} there; "
                "give the config and weights of a BAGEL checkpoint"
            )


def _llm_fields(llm: Section) -> dict[str, Any]:
    _require(llm, FIXED_LLM)
    rope = llm
    if llm.values.get("rope_parameters") is not None:
        _require(llm.section("rope_parameters"), {"rope_type": "default"})
        rope = llm if "rope_theta" in llm.values else llm.section("rope_parameters")
    return {
        "vocab_size": llm.size("vocab_size"),
        "hidden_size": llm.size("hidden_size"),
        "intermediate_size": llm.size("intermediate_size"),
        "num_layers": llm.layers("num_hidden_layers"),
        "num_heads": llm.size("num_attention_heads"),
        "num_kv_heads": llm.size("num_key_value_heads"),
        "head_dim": _shared_out(llm) if llm.values.get("head_dim") is None else llm.size("head_dim"),
        "rope_theta": rope.positive("rope_theta"),
        "rms_norm_eps": llm.positive("rms_norm_eps"),
        "max_position_embeddings": llm.size("max_position_embeddings"),
        "attention_bias": llm.flag("attention_bias_qkv", True),
    }


def _shared_out(section: Section) -> int:
    """What of hidden_size each head gets. Raises ValueError unless they share it evenly."""
    hidden_size, num_heads = section.size("hidden_size"), section.size("num_attention_heads")
    if hidden_size % num_heads:
        raise ValueError(
            f"hidden_size is {hidden_size} in {section.place}, which {num_heads} heads cannot share; "
            "make it a multiple of num_attention_heads"
        )
    return hidden_size // num_heads


def _root_fields(root: Section) -> dict[str, Any]:
    tokens = root.section("special_tokens") if "special_tokens" in root.values else Section({}, root.place)
    return {
        "latent_patch_size": root.size("latent_patch_size"),
        "max_latent_size": root.size("max_latent_size"),
        "time_features": root.size("timestep_embed_dim", 256),
        "vae": _vae(root.section("vae_config")),
        **{name: tokens.whole(name, default) for name, (_, default) in SPECIAL_TOKENS.items()},
    }


def _vision(vit: Section, root: Section) -> VisionConfig:
    _require(vit, FIXED_VIT)
    _shared_out(vit)
    image_size, patch_size = vit.size("image_size"), vit.size("patch_size")
    side = image_size // patch_size
    if (stride := root.size("vit_max_num_patch_per_side", side)) > side:
        raise ValueError(
            f"vit_max_num_patch_per_side is {stride} in {root.place}, but image_size {image_size} and patch_size {patch_size} "
            f"in {vit.place} make {side}; use the files of one checkpoint"
        )
    return VisionConfig(
        hidden_size=vit.size("hidden_size"),
        intermediate_size=vit.size("intermediate_size"),
        num_layers=vit.layers("num_hidden_layers") - VIT_LAYERS_UNUSED,
        num_heads=vit.size("num_attention_heads"),
        patch_size=patch_size,
        image_size=image_size,
        num_channels=vit.size("num_channels", 3),
        layer_norm_eps=vit.positive("layer_norm_eps", 1e-6),
        max_patches_per_side=stride,
    )


def _vae(section: Section) -> AutoEncoderConfig:
    flux = AutoEncoderConfig()
    config = AutoEncoderConfig(
        resolution=section.size("resolution", flux.resolution),
        in_channels=section.size("in_channels", flux.in_channels),
        ch=section.size("ch", flux.ch),
        ch_mult=section.sizes("ch_mult", flux.ch_mult, most=MAX_LEVELS),
        num_res_blocks=section.whole("num_res_blocks", flux.num_res_blocks, most=MAX_LAYERS),
        z_channels=section.size("z_channels", flux.z_channels),
        scale_factor=section.positive("scale_factor", flux.scale_factor),
        shift_factor=section.number("shift_factor", flux.shift_factor),
    )
    for name, implied in (("downsample", config.downsample), ("out_ch", config.in_channels)):
        if (given := section.size(name, implied)) != implied:
            raise ValueError(f"{name} is {given} in {section.place}, but its other values imply {implied}; make them agree")
    return config
