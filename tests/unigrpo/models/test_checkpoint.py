import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.unigrpo.models.fakes import CONFIG, hash_of, random_autoencoder, random_model
from tests.unigrpo.models.released import RELEASED, SEEING
from tests.unigrpo.released_tokenizer import save_released_tokenizer, with_its_tokens
from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.models.bagel.checkpoint import POSITION_TABLES, load_model, save_model
from unigrpo.models.bagel.config import LATENT_TABLE, BagelConfig
from unigrpo.models.bagel.model import Bagel, position_table

NAME = "language_model.model.layers.1.self_attn.q_proj_moe_gen.weight"


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a tokenizer with more files than one, beside a file that is none of a tokenizer's."""
    folder = tmp_path_factory.mktemp("tokenizer")
    save_released_tokenizer(folder)
    (folder / "generation_config.json").write_text("{}")
    (folder / "notes.txt").touch()
    return folder / "tokenizer.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, tokenizer_path: Path) -> Path:
    """A complete checkpoint, and one with a vision tower."""
    saved = tmp_path_factory.mktemp("saved")
    weights, autoencoder = random_model(torch.float32).state_dict(), random_autoencoder()
    save_model(saved / "checkpoint", weights, autoencoder, CONFIG, tokenizer_path=tokenizer_path)
    save_model(saved / "seeing", seeing_weights(), autoencoder, SEEING, tokenizer_path=None)
    return saved


def seeing_weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return Bagel(SEEING).state_dict()


@pytest.fixture
def folder(tmp_path: Path, saved: Path) -> Path:
    """A complete checkpoint."""
    return Path(shutil.copytree(saved / "checkpoint", tmp_path / "checkpoint"))


@pytest.fixture
def seeing(tmp_path: Path, saved: Path) -> Path:
    """A checkpoint with a vision tower."""
    return Path(shutil.copytree(saved / "seeing", tmp_path / "seeing"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(path: Path, *, remove: tuple[str, ...] = (), add: dict[str, Tensor] | None = None) -> None:
    tensors = {name: tensor for name, tensor in load_file(path).items() if name not in remove}
    save_file(tensors | (add or {}), path)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_saved_is_loaded(folder: Path) -> None:
    loaded = load_model(folder)
    assert same(loaded.model.state_dict(), random_model(torch.float32).state_dict())
    assert same(loaded.autoencoder.state_dict(), random_autoencoder().state_dict())
    assert loaded.config == CONFIG
    assert loaded.tokenizer_path == folder / "tokenizer.json"
    assert sorted(path.name for path in folder.iterdir()) == [
        "ae.safetensors",
        "config.json",
        "ema.safetensors",
        "generation_config.json",
        "llm_config.json",
        "merges.txt",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
    ]
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_weights_are_cast_to_the_dtype_asked_for(folder: Path) -> None:
    loaded = load_model(folder, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in loaded.model.state_dict().values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in loaded.autoencoder.state_dict().values()} == {torch.float32}
    expected = random_model(torch.float32).llm2vae.weight.to(torch.bfloat16)
    assert torch.equal(loaded.model.llm2vae.weight, expected)


def test_a_stored_position_table_is_kept_and_an_absent_one_worked_out(folder: Path) -> None:
    weights = folder / "ema.safetensors"
    computed = load_model(folder).model.latent_pos_embed.pos_embed
    rewrite(weights, remove=(LATENT_TABLE,))
    assert torch.equal(load_model(folder).model.latent_pos_embed.pos_embed, computed)
    stored = torch.randn(9, CONFIG.hidden_size)
    rewrite(weights, add={LATENT_TABLE: stored})
    loaded = load_model(folder)
    assert loaded.config.max_latent_size == 3
    save_model(folder, loaded.model.state_dict(), loaded.autoencoder, loaded.config, tokenizer_path=None)
    assert torch.equal(load_file(weights)[LATENT_TABLE], stored)


def test_the_parity_folder_loads_in_the_released_layout(golden_folder: Path, tmp_path: Path) -> None:
    shutil.copy(golden_folder / "config.json", tmp_path)
    shutil.copy(golden_folder / "state_dict.safetensors", tmp_path / "ema.safetensors")
    shutil.copy(golden_folder / "ae_state_dict.safetensors", tmp_path / "ae.safetensors")
    before = load_model(tmp_path)
    again = tmp_path / "again"
    save_model(again, before.model.state_dict(), before.autoencoder, before.config, tokenizer_path=None)
    assert hash_of(load_model(again).model) == hash_of(before.model)
    assert load_model(again).config == before.config


def test_a_model_with_eyes_goes_round(seeing: Path) -> None:
    loaded = load_model(seeing)
    assert same(loaded.model.state_dict(), seeing_weights())
    assert loaded.config == SEEING
    rewrite(seeing / "ema.safetensors", remove=POSITION_TABLES)
    assert same(load_model(seeing).model.state_dict(), loaded.model.state_dict())


def test_position_tables_are_always_written(seeing: Path) -> None:
    weights = {name: tensor for name, tensor in seeing_weights().items() if name not in POSITION_TABLES}
    save_model(seeing, weights, random_autoencoder(), SEEING, tokenizer_path=None)
    written = load_file(seeing / "ema.safetensors")
    assert torch.equal(written["latent_pos_embed.pos_embed"], position_table(5, 24))
    assert torch.equal(written["vit_pos_embed.pos_embed"], position_table(3, 24))


def test_a_vision_table_that_disagrees_with_the_config_is_named(seeing: Path) -> None:
    rewrite(seeing / "ema.safetensors", add={"vit_pos_embed.pos_embed": torch.zeros(16, 24)})
    with pytest.raises(ValueError, match=r"vit_pos_embed.pos_embed in .* is \[16, 24\], the config asks for \[9, 24\]"):
        load_model(seeing)


def test_a_tower_without_a_config_and_a_config_without_a_tower(seeing: Path, folder: Path) -> None:
    shutil.copy(seeing / "vit_config.json", folder)
    with pytest.raises(ValueError, match=r"vit_config.json asks for a vision tower .*, but .*ema.safetensors holds none; copy"):
        load_model(folder)
    (seeing / "vit_config.json").unlink()
    with pytest.raises(ValueError, match=r"ema.safetensors holds a vision tower .*, but vit_config.json beside it is missing"):
        load_model(seeing)


def test_the_released_layout_goes_round(tmp_path: Path, tokenizer_path: Path) -> None:
    """All files as they are released, the stale latent size and Hugging Face's own keys included, at a small size."""
    config = with_its_tokens(replace(SEEING, max_latent_size=8))
    model, folder, again = Bagel(config).to(torch.bfloat16), tmp_path / "released", tmp_path / "again"
    save_model(folder, model.state_dict(), AutoEncoder(config.vae), config, tokenizer_path=tokenizer_path)
    weights = folder / "ema.safetensors"
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    qwen = {"model_type": "qwen2", "bos_token_id": 151643, "sliding_window": 131072, "use_sliding_window": False}
    edit(folder / "llm_config.json", **qwen, torch_dtype="bfloat16", max_window_layers=28, rope_scaling=None)
    edit(folder / "config.json", visual_und=True, max_latent_size=4, timestep_shift=1.0)
    loaded = load_model(folder, dtype=torch.bfloat16)
    assert loaded.config == config
    assert same(loaded.model.state_dict(), model.state_dict())
    save_model(again, loaded.model.state_dict(), loaded.autoencoder, loaded.config, tokenizer_path=loaded.tokenizer_path)
    back = load_model(again, dtype=torch.bfloat16)
    assert same(back.model.state_dict(), loaded.model.state_dict())
    assert same(back.autoencoder.state_dict(), loaded.autoencoder.state_dict())
    assert back.config == config
    assert {path.name for path in again.iterdir()} == {path.name for path in folder.iterdir()}
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "generation_config.json"):
        assert (again / name).read_bytes() == (tokenizer_path.parent / name).read_bytes()


def test_released_names_and_shapes(released_folder: Path) -> None:
    """The whole model at full size, on the meta device."""
    with torch.device("meta"):
        modules = {"released_keys.json": Bagel(RELEASED), "released_ae_keys.json": AutoEncoder(RELEASED.vae)}
    for name, module in modules.items():
        released = json.loads((released_folder / name).read_text())
        assert {key: list(value.shape) for key, value in module.state_dict().items()} == released
    assert sum(value.numel() for value in modules["released_keys.json"].state_dict().values()) == 14_607_260_128


def test_a_missing_tensor_is_named(folder: Path) -> None:
    rewrite(folder / "ema.safetensors", remove=(NAME,))
    with pytest.raises(ValueError, match=rf"ema.safetensors lacks {NAME}, which the config asks for"):
        load_model(folder)


def test_an_extra_tensor_is_named(folder: Path) -> None:
    rewrite(folder / "ae.safetensors", add={"encoder.quant_conv.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"ae.safetensors holds encoder.quant_conv.weight, which the config has no place for"):
        load_model(folder)


def test_a_misshapen_tensor_is_named_with_both_shapes(folder: Path) -> None:
    rewrite(folder / "ema.safetensors", add={NAME: torch.zeros(3, 24)})
    with pytest.raises(ValueError, match=rf"{NAME} in .* is \[3, 24\], the config asks for \[48, 24\]"):
        load_model(folder)


def test_whole_numbers_are_not_weights(folder: Path) -> None:
    rewrite(folder / "ema.safetensors", add={NAME: torch.zeros(48, 24, dtype=torch.int8)})
    with pytest.raises(ValueError, match=rf"{NAME} in .* is I8; weights are floating point"):
        load_model(folder)


def test_a_number_that_is_not_finite_is_named_with_its_tensor(folder: Path) -> None:
    bias = load_file(folder / "ae.safetensors")["decoder.conv_out.bias"]
    bias[1] = torch.nan
    rewrite(folder / "ae.safetensors", add={"decoder.conv_out.bias": bias})
    with pytest.raises(
        ValueError, match=r"^decoder.conv_out.bias in .*ae.safetensors holds 1 numbers that are NaN or infinite"
    ):
        load_model(folder)


@pytest.mark.parametrize("keep", [4, 200, 0.5, 0.999])
@pytest.mark.parametrize("name", ["ema.safetensors", "ae.safetensors"])
def test_a_truncated_file_is_named(folder: Path, name: str, keep: float) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    with pytest.raises(ValueError, match=rf"{name} cannot be read .*it is truncated or damaged; copy it again"):
        load_model(folder)


@pytest.mark.parametrize("name", ["ema.safetensors", "ae.safetensors", "config.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} is missing"):
        load_model(folder)


def test_a_hidden_size_of_another_model_is_refused(folder: Path) -> None:
    edit(folder / "llm_config.json", hidden_size=32)
    with pytest.raises(ValueError, match=r"ema.safetensors is \[.*24\], the config asks for \[.*32\]; .* of one checkpoint"):
        load_model(folder)


def test_a_config_of_another_model_is_refused(folder: Path) -> None:
    llm = json.loads((folder / "llm_config.json").read_text())
    (folder / "llm_config.json").write_text(json.dumps(llm | {"num_hidden_layers": 3}))
    with pytest.raises(
        ValueError, match=r"lacks language_model.model.layers.2.* and 25 more tensors, which the config asks for"
    ):
        load_model(folder)
    (folder / "llm_config.json").write_text(json.dumps(llm | {"num_hidden_layers": 1}))
    with pytest.raises(ValueError, match=r"holds language_model.model.layers.1.*, which the config has no place for"):
        load_model(folder)


def test_weights_of_another_model_are_not_saved(folder: Path) -> None:
    weights = random_model(torch.float32).state_dict()
    weights[NAME] = weights[NAME][:-1]
    with pytest.raises(ValueError, match=rf"{NAME} is \[47, 24\], but \[48, 24\] was announced"):
        save_model(folder, weights, random_autoencoder(), CONFIG, tokenizer_path=None)
    del weights[NAME]
    with pytest.raises(ValueError, match=rf"the weights to save lacks {NAME}"):
        save_model(folder, weights, random_autoencoder(), CONFIG, tokenizer_path=None)
    assert same(load_model(folder).model.state_dict(), random_model(torch.float32).state_dict())


def test_saving_again_replaces_the_whole_folder(folder: Path) -> None:
    (folder / "old").touch()
    weights = {name: tensor + 1 for name, tensor in random_model(torch.float32).state_dict().items()}
    save_model(folder, weights, random_autoencoder(), CONFIG, tokenizer_path=None)
    assert same(load_model(folder).model.state_dict(), weights)
    assert not (folder / "old").exists()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["checkpoint"]


@contextmanager
def files_limited_to(num_bytes: int) -> Iterator[None]:
    """What a full disk does: a write fails half way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("num_bytes", [100, 10_000, 200_000])
def test_a_full_disk_leaves_the_previous_checkpoint(folder: Path, num_bytes: int) -> None:
    before = hash_of(load_model(folder).model)
    weights = {name: tensor + 1 for name, tensor in random_model(torch.float32).state_dict().items()}
    with (
        files_limited_to(num_bytes),
        pytest.raises(OSError, match=rf"{folder} could not be saved .*untouched. Free some space"),
    ):
        save_model(folder, weights, random_autoencoder(), CONFIG, tokenizer_path=None)
    assert hash_of(load_model(folder).model) == before
    assert sorted(path.name for path in folder.parent.iterdir()) == ["checkpoint"]


def test_the_hash_tells_policies_apart() -> None:
    model, other = random_model(torch.float32), random_model(torch.float32)
    assert hash_of(model) == hash_of(other)
    with torch.no_grad():
        other.llm2vae.bias[0] += 1e-6
    assert hash_of(model) != hash_of(other)
    assert hash_of(model) != hash_of(model.to(torch.bfloat16))


def test_the_config_is_inferred_without_reading_weights(folder: Path) -> None:
    assert BagelConfig.from_folder(folder) == CONFIG
