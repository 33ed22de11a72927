"""What a picture's caption says of its score."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cluster import samples
from cluster.samples import CAPTION_LINES, score_caption, write_samples
from tests.cluster.fakes import fake_group, fake_painting
from unigrpo.gallery import LINE_CHARACTERS, Tile


def test_a_caption_holds_the_score_and_the_numbers_of_its_breakdown() -> None:
    assert score_caption(2 / 3, {"graded": 2 / 3, "strict": 0.0, "reason": "no circle"}) == [
        "score .67",
        "graded .67  strict 0",
    ]
    assert score_caption(-12.5, {}) == ["score -12.5"]
    assert score_caption(-0.25, {"light": 100.0}) == ["score -.25", "light 100"]


def test_a_name_and_its_number_stand_on_one_line_and_a_long_breakdown_is_cut() -> None:
    first, *lines = score_caption(1.0, {f"part number {place}": place / 7 for place in range(100)})
    assert first == "score 1"
    assert lines[:2] == ["part number 0 0", "part number 1 .14"]
    assert len(lines) == CAPTION_LINES
    assert lines[-1].endswith("...")
    assert max(map(len, lines)) <= LINE_CHARACTERS


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Tile]:
    """The tiles of the sheet; every picture is black, from no object store."""
    black = fake_painting()
    tiles: list[Tile] = []

    def sheet(given: Sequence[Tile]) -> Image.Image:
        tiles.extend(given)
        return Image.new("RGB", (4, 4))

    monkeypatch.setattr(samples, "paintings_of", lambda groups, timeout: [[black] * len(group.scores) for group in groups])
    monkeypatch.setattr(samples, "contact_sheet", sheet)
    return tiles


def test_a_sheet_of_samples_shows_breakdowns(tmp_path: Path, shown: list[Tile]) -> None:
    groups = [fake_group(0, "counting", [1.0, 0.5])]
    write_samples(tmp_path, groups, limit=2, decode=lambda token_ids: "a thought", timeout=1.0)
    assert [caption for _, caption in shown] == [
        ["prompt 0", "a thought", "score 1", "strict 1  graded .5  geneval 2"],
        ["prompt 0", "a thought", "score .5", "strict .5  graded .25", "geneval 1.5"],
    ]
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert rows[1]["breakdown"] == {"strict": 0.5, "graded": 0.25, "geneval": 1.5, "reason": ""}


def test_a_thought_stands_under_each_of_its_pictures_and_none_where_nothing_was_thought(
    tmp_path: Path, shown: list[Tile]
) -> None:
    nested = fake_group(0, "counting", [1.0, 1.0, 1.0, 1.0], num_thoughts=2)
    nested = replace(nested, thoughts=tuple(replace(each, token_ids=(n,)) for n, each in enumerate(nested.thoughts)))
    plain = fake_group(1, "counting", [1.0, 1.0, 1.0, 1.0], num_thoughts=0)
    write_samples(tmp_path, [nested, plain], limit=8, decode=lambda token_ids: f"thought {token_ids[0]}", timeout=1.0)
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [row["thought"] for row in rows] == ["thought 0", "thought 0", "thought 1", "thought 1", None, None, None, None]
    assert [caption[1] for _, caption in shown] == [row["thought"] or "score 1" for row in rows]
