"""Pictures in prompts that a run could not edit are named before it starts."""

import json
from pathlib import Path

import pytest
import torch

from cluster.picture_checks import require_editable
from cluster.preflight import prepare
from configs.load import QUICKSTART, ConfigError, load
from configs.schema import SamplerConfig, TrainConfig
from tests.rollout_workers.fakes import MODEL, SEEING
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.pictures import encode_png
from unigrpo.prompts import read_prompt_file

PAINTED = SamplerConfig(height=16, width=24)
PLAIN = {"prompt": "a circle", "tag": "colors", "include": [{"class": "circle", "count": 1}]}


def save_picture(file: Path, height: int, width: int) -> None:
    file.write_bytes(encode_png(torch.zeros(height, width, 3, dtype=torch.uint8)))


def check(folder: Path, model: BagelConfig = SEEING) -> None:
    require_editable(read_prompt_file(folder / "edits.jsonl"), folder / "edits.jsonl", PAINTED, model)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One prompt of text and three edits of two pictures, of the painted shape and larger."""
    edits = [{**PLAIN, "picture": name} for name in ("a.png", "b.png", "a.png")]
    (tmp_path / "edits.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [PLAIN, *edits]))
    save_picture(tmp_path / "a.png", 16, 24)
    save_picture(tmp_path / "b.png", 22, 32)  # to multiples of 4, ties to the even one: 24 x 32
    return tmp_path


def test_pictures_of_the_painted_size_pass_and_so_does_what_is_scaled_to_it(folder: Path) -> None:
    save_picture(folder / "b.png", 17, 25)
    check(folder)


def test_another_size_is_named_with_the_way_out(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"edits\.jsonl:3: prompt 'a circle' edits .*b\.png, which comes to 24 x 32 pixels"
    ) as e:
        check(folder)
    assert "but the run paints 16 x 24; crop or scale the picture, or set sampler.height=24 and sampler.width=32" in str(
        e.value
    )


@pytest.mark.parametrize("content", [b"", b"no picture", "half"])
def test_a_picture_that_cannot_be_read_is_named(folder: Path, content: bytes | str) -> None:
    whole = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(content if isinstance(content, bytes) else whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"edits\.jsonl:2: picture .*a\.png: .*no (whole )?picture"):
        check(folder)


def test_a_model_without_vision_refuses_them(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"edits\.jsonl:2: prompt 'a circle' edits a picture, but the model has no vision tower"
    ):
        check(folder, MODEL)


def test_a_run_is_told_before_it_starts(folder: Path) -> None:
    config = load(QUICKSTART, [f"prompts={{kind: file, path: {folder}/edits.jsonl}}"])
    assert isinstance(config, TrainConfig)
    with pytest.raises(ConfigError, match=r"^prompts: .*edits\.jsonl:2: .*no vision tower"):
        prepare(config, evaluates=False)
