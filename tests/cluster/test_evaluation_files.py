"""What an evaluation writes down, and that no picture's words are lost or run over the sheet."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from cluster.evaluation_files import SHEET_PICTURES, picture_rows, write_config, write_scores
from configs.load import QUICKSTART, load
from configs.schema import TrainConfig
from tests.cluster.fakes import fake_group
from unigrpo.gallery import SHEET_COLUMNS, TILE
from unigrpo.geneval_folder import write_painted_prompt
from unigrpo.types import Prompt

SCORES = {"strict": 0.5, "headline": {"score": "strict", "over": "pictures"}}


def written(folder: Path, num_prompts: int, thought: str | None) -> list[dict[str, object]]:
    """Rows of as many prompts with one picture each, and all else that is written, in `folder`."""
    config = load(QUICKSTART)
    assert isinstance(config, TrainConfig)
    rows = []
    for index in range(num_prompts):
        prompt = Prompt(index=index, text="x", metadata={"prompt": "x"})
        names = write_painted_prompt(folder, prompt, [torch.full((4, 4, 3), index, dtype=torch.uint8)])
        rows += picture_rows(fake_group(index, "counting", [1.0]), names, [thought])
    write_config(folder, config)
    write_scores(folder, SCORES, rows, pictures=folder)
    assert load(folder / "config.yaml") == config
    assert json.loads((folder / "scores.json").read_text()) == SCORES
    return [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("thought", ["a thought", None])
def test_a_row_says_all_of_a_picture(tmp_path: Path, thought: str | None) -> None:
    rows = written(tmp_path, 2, thought)
    assert rows[1] == {
        "image": "00001/samples/0000.png",
        "prompt": "prompt 1",
        "tag": "counting",
        "thought": thought,
        "score": 1.0,
        "breakdown": {"strict": 1.0, "graded": 0.5, "geneval": 2.0, "reason": ""},
    }


def test_a_sheet_holds_pictures_from_the_whole_and_long_thoughts_are_cut(tmp_path: Path) -> None:
    rows = written(tmp_path, 2 * SHEET_PICTURES + 1, "word " * 2000)
    assert len(rows) == 2 * SHEET_PICTURES + 1
    assert rows[0]["thought"] == "word " * 2000
    with Image.open(tmp_path / "sheet.png") as sheet:
        num_rows = -(-(2 * SHEET_PICTURES + 1) // 3 // SHEET_COLUMNS)
        assert num_rows * TILE < sheet.height < num_rows * 2.5 * TILE
