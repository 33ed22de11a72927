import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.unigrpo.models.fakes import CONFIG
from tests.unigrpo.models.released import FILES, RELEASED, SEEING, VIT
from unigrpo.models.bagel.config import LATENT_TABLE, AutoEncoderConfig, BagelConfig


def edit(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.parametrize("config", [CONFIG, SEEING])
def test_a_saved_config_is_read_back(tmp_path: Path, config: BagelConfig) -> None:
    config.save(tmp_path)
    assert BagelConfig.from_folder(tmp_path) == config


def test_one_file_may_hold_all_sections(tmp_path: Path) -> None:
    SEEING.save(tmp_path)
    for part in ("llm_config", "vit_config"):
        file = tmp_path / f"{part}.json"
        edit(tmp_path / "config.json", **{part: json.loads(file.read_text())})
        file.unlink()
    assert BagelConfig.from_folder(tmp_path) == SEEING


def test_the_released_files(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_text(json.dumps(content))
    save_file({LATENT_TABLE: torch.empty(4096, 1)}, tmp_path / "ema.safetensors")
    assert BagelConfig.from_folder(tmp_path) == RELEASED
    RELEASED.save(tmp_path)
    assert BagelConfig.from_folder(tmp_path) == RELEASED
    assert json.loads((tmp_path / "vit_config.json").read_text()).items() >= VIT.items()


def test_a_tower_may_have_more_places_than_its_pictures_use(tmp_path: Path) -> None:
    SEEING.save(tmp_path)
    edit(tmp_path / "vit_config.json", image_size=56)
    vision = BagelConfig.from_folder(tmp_path).vision
    assert vision is not None
    assert (vision.image_size, vision.max_patches_per_side) == (56, 3)


def test_the_rope_base_where_newer_transformers_write_it(tmp_path: Path) -> None:
    CONFIG.save(tmp_path)
    edit(tmp_path / "llm_config.json", rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    assert BagelConfig.from_folder(tmp_path) == CONFIG
    edit(tmp_path / "llm_config.json", rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0})
    with pytest.raises(ValueError, match=r'rope_type is "yarn" in rope_parameters in .*llm_config.json'):
        BagelConfig.from_folder(tmp_path)


def test_what_the_released_config_leaves_unsaid(tmp_path: Path) -> None:
    CONFIG.save(tmp_path)
    edit(tmp_path / "llm_config.json", vocab_size=152064, head_dim=None, attention_bias_qkv=None, hidden_size=48)
    edit(tmp_path / "config.json", special_tokens=None, vae_config={"z_channels": 16, "downsample": 8}, timestep_embed_dim=None)
    config = BagelConfig.from_folder(tmp_path)
    assert (config.head_dim, config.attention_bias, config.time_features) == (8, True, 256)
    assert (config.bos_token_id, config.eos_token_id) == (151644, 151645)
    assert (config.start_of_image, config.end_of_image) == (151652, 151653)
    assert config.vae == AutoEncoderConfig()
    assert config.latent_channels == 64


def test_the_weights_overrule_a_stale_latent_size(tmp_path: Path) -> None:
    CONFIG.save(tmp_path)
    edit(tmp_path / "config.json", max_latent_size=32)
    save_file({LATENT_TABLE: torch.zeros(49, CONFIG.hidden_size)}, tmp_path / "ema.safetensors")
    assert BagelConfig.from_folder(tmp_path).max_latent_size == 7


def test_a_table_that_is_not_square_is_refused(tmp_path: Path) -> None:
    CONFIG.save(tmp_path)
    save_file({LATENT_TABLE: torch.zeros(48, CONFIG.hidden_size)}, tmp_path / "ema.safetensors")
    with pytest.raises(ValueError, match=r"latent_pos_embed.pos_embed in .*ema.safetensors is \[48, 24\]"):
        BagelConfig.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "llm_config.json",
            {"hidden_size": None},
            r"hidden_size is missing in .*llm_config.json; it must be an integer from 1 to 1048576",
        ),
        ("llm_config.json", {"num_hidden_layers": 0}, r"num_hidden_layers is 0 in .*it must be an integer from 1 to 1024"),
        ("llm_config.json", {"rope_theta": "big"}, r"rope_theta is 'big' in .*it must be a number above 0"),
        ("llm_config.json", {"rope_theta": 0}, r"rope_theta is 0 in .*it must be a number above 0"),
        ("llm_config.json", {"rope_theta": 10**400}, r"rope_theta is 10{17}\.\.\.0{19} in .*it must be a number above 0"),
        (
            "llm_config.json",
            {"rope_theta": None, "rope_parameters": {"rope_theta": -1}},
            r"rope_theta is -1 in rope_parameters in .*llm_config.json; it must be a number above 0",
        ),
        ("llm_config.json", {"rms_norm_eps": -1}, r"rms_norm_eps is -1 in .*it must be a number above 0"),
        ("llm_config.json", {"hidden_size": 10**12}, r"hidden_size is 1000000000000 in .*from 1 to 1048576"),
        ("llm_config.json", {"vocab_size": 10**25}, r"vocab_size is 10{25} in .*from 1 to 1048576"),
        ("llm_config.json", {"num_hidden_layers": 10**7}, r"num_hidden_layers is 10000000 in .*from 1 to 1024"),
        (
            "llm_config.json",
            {"num_attention_heads": 2**20, "num_key_value_heads": 1},
            r"heads times head_dim comes to 8388608; allow",
        ),
        (
            "llm_config.json",
            {"num_attention_heads": 48, "head_dim": None},
            r"hidden_size is 24 in .*llm_config.json, which 48 heads cannot share; make it a multiple of num_attention_heads",
        ),
        ("llm_config.json", {"num_key_value_heads": 4}, r"^/.*: 6 query heads cannot share 4 key-value heads"),
        ("llm_config.json", {"head_dim": 7}, r"head_dim is 7"),
        ("llm_config.json", {"hidden_act": "gelu"}, r'hidden_act is "gelu" in .*but every BAGEL has "silu" there'),
        ("llm_config.json", {"rope_scaling": {"factor": 2}}, r"rope_scaling is .*every BAGEL has null there"),
        ("llm_config.json", {"tie_word_embeddings": True}, r"tie_word_embeddings is true in .*every BAGEL has false there"),
        ("llm_config.json", {"qk_norm": False}, r"qk_norm is false in .*every BAGEL has true there"),
        ("llm_config.json", {"use_sliding_window": True}, r"use_sliding_window is true in .*every BAGEL has false there"),
        ("vit_config.json", {"hidden_act": "quick_gelu"}, r'hidden_act is "quick_gelu" in .*vit_config.json'),
        ("vit_config.json", {"num_attention_heads": 3}, r"hidden_size is 16 in .*, which 3 heads cannot share"),
        ("vit_config.json", {"layer_norm_eps": 0}, r"layer_norm_eps is 0 in .*it must be a number above 0"),
        ("vit_config.json", {"num_hidden_layers": 10**7}, r"num_hidden_layers is 10000000 in .*from 1 to 1024"),
        (
            "vit_config.json",
            {"image_size": 2**20, "patch_size": 1},
            r"image_size over patch_size, squared comes to 1099511627776",
        ),
        ("vit_config.json", {"image_size": 28}, r"vit_max_num_patch_per_side is 3 in .*make 2; use the files of one"),
        ("config.json", {"connector_act": "relu"}, r'connector_act is "relu" in .*config.json'),
        ("config.json", {"interpolate_pos": True}, r"interpolate_pos is true in .*config.json"),
        ("llm_config.json", {"attention_bias_qkv": 1}, r"attention_bias_qkv is 1 in .*true or false"),
        (
            "llm_config.json",
            {"vocab_size": 58},
            r"start_of_image \(<\|vision_start\|>\) is 58, but vocab_size is 58; set",
        ),
        ("config.json", {"vae_config": None}, r"vae_config is missing in .*it must be an object"),
        ("config.json", {"vae_config": {"downsample": 4}}, r"downsample is 4 in .*imply 8"),
        ("config.json", {"vae_config": {"ch_mult": []}}, r"ch_mult is \[\] in .*a list of 1 to 16 integers from 1 to 1048576"),
        (
            "config.json",
            {"vae_config": {"ch_mult": [True, 1, 1]}},
            r"ch_mult is \[True, 1, 1\] in .*a list of 1 to 16 integers",
        ),
        ("config.json", {"vae_config": {"ch_mult": [10**20]}}, r"ch_mult is \[10{20}\] in .*a list of 1 to 16 integers"),
        (
            "config.json",
            {"vae_config": {"ch_mult": [2**20, 1, 1, 1]}},
            r"ch times the largest of ch_mult comes to 134217728; allow",
        ),
        ("config.json", {"vae_config": {"ch_mult": 17 * [1]}}, r"ch_mult is \[1, 1, .* in .*a list of 1 to 16 integers"),
        ("config.json", {"vae_config": {"num_res_blocks": 10**7}}, r"num_res_blocks is 10000000 in .*from 0 to 1024"),
        (
            "config.json",
            {"vae_config": {"scale_factor": 0}},
            r"scale_factor is 0 in vae_config in .*it must be a number above 0",
        ),
        ("config.json", {"vae_config": {"shift_factor": 10**400}}, r"shift_factor is 1.* in .*it must be a number"),
        (
            "config.json",
            {"latent_patch_size": 2**20},
            r"z_channels times latent_patch_size squared comes to 4398046511104; allow",
        ),
        (
            "config.json",
            {"max_latent_size": 2**20},
            r"^/.*: max_latent_size squared comes to 1099511627776; allowed are up to 1048576",
        ),
        ("config.json", {"special_tokens": {"bos_token_id": -1}}, r"bos_token_id is -1 in .*from 0 to 1048576"),
    ],
)
def test_a_wrong_value_is_named_with_its_file(tmp_path: Path, file: str, changes: dict[str, Any], message: str) -> None:
    SEEING.save(tmp_path)
    edit(tmp_path / file, **changes)
    with pytest.raises(ValueError, match=message):
        BagelConfig.from_folder(tmp_path)


def test_a_missing_folder_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere is not a folder"):
        BagelConfig.from_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"config.json is missing"):
        BagelConfig.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"llm_config.json is missing; a BAGEL checkpoint folder holds it, or llm_config in"):
        BagelConfig.from_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"latent')
    with pytest.raises(ValueError, match=r"config.json is not valid JSON"):
        BagelConfig.from_folder(tmp_path)


def test_a_file_that_is_no_file_or_nested_too_deeply_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(100_000 * "[" + 100_000 * "]")
    with pytest.raises(ValueError, match=r"config.json is not valid JSON \(maximum recursion depth exceeded"):
        BagelConfig.from_folder(tmp_path)
    path.unlink()
    for make in (path.mkdir, lambda: os.mkfifo(path)):
        make()
        with pytest.raises(ValueError, match=r"config.json is no file; a BAGEL checkpoint folder holds it"):
            BagelConfig.from_folder(tmp_path)
        if path.is_dir():
            path.rmdir()


def test_a_folder_of_a_run_says_where_its_policy_is(tmp_path: Path) -> None:
    for step in (3, 20):
        policy = tmp_path / "checkpoints" / f"step-{step:06d}" / "policy"
        policy.mkdir(parents=True)
        CONFIG.save(policy)
    for folder in (tmp_path, policy.parent):
        with pytest.raises(ValueError, match=rf"{folder} belongs to a run .*its newest is {policy}$"):
            BagelConfig.from_folder(folder)


def test_the_grid_of_a_picture() -> None:
    assert CONFIG.grid_hw(16, 40) == (2, 5)


@pytest.mark.parametrize("size", [(12, 16), (16, 48), (0, 16)])
def test_a_picture_off_the_grid_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="allowed are multiples of 8 up to 40"):
        CONFIG.grid_hw(*size)
