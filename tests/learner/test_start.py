"""The start checkpoint read in parts: against the model loaded whole."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from learner.start import Start
from tests.unigrpo.models.fakes import hash_of, random_autoencoder, random_model
from tests.unigrpo.models.released import SEEING
from unigrpo.models.bagel.checkpoint import POSITION_TABLES, load_model, save_model
from unigrpo.models.bagel.config import WEIGHTS_FILE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path, random_model(torch.float32, SEEING).state_dict(), random_autoencoder(), SEEING, tokenizer_path=None)
    return tmp_path


@pytest.mark.parametrize("with_tables", [True, False])
def test_parts_make_up_the_model(with_tables: bool, folder: Path) -> None:
    if not with_tables:
        tensors = {name: each for name, each in load_file(folder / WEIGHTS_FILE).items() if name not in POSITION_TABLES}
        save_file(tensors, folder / WEIGHTS_FILE)
    start, expected = Start(folder), load_model(folder).model.state_dict()
    assert list(start.shapes) == list(expected)
    for name, value in expected.items():
        assert start.shapes[name] == tuple(value.shape)
        assert_close(start.tensor(name), value, rtol=0, atol=0)
        half = value.numel() // 2
        assert_close(start.flat(name, 0, half), value.flatten()[:half], rtol=0, atol=0)
        assert_close(start.flat(name, half, value.numel()), value.flatten()[half:], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_hash_is_that_of_the_model_loaded_whole(dtype: torch.dtype, folder: Path) -> None:
    assert Start(folder).hash(dtype) == hash_of(load_model(folder, dtype=dtype).model)


def test_a_folder_that_is_not_whole_is_refused_before_anything_is_read(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS_FILE)
    del tensors["connector.fc1.bias"]
    save_file(tensors, folder / WEIGHTS_FILE)
    with pytest.raises(ValueError, match=r"lacks connector\.fc1\.bias"):
        Start(folder)
