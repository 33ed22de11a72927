"""Prompt files: what is read is what was written, and every broken line is named."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from unigrpo.prompts import read_prompt_file, write_prompt_file
from unigrpo.shapes.prompts import shapes_prompts
from unigrpo.types import Prompt

GOOD = {"tag": "colors", "include": [{"class": "circle", "count": 1, "color": "red"}], "prompt": "a red circle"}


def test_written_prompts_are_read_again(tmp_path: Path) -> None:
    prompts = shapes_prompts("held_out")
    write_prompt_file(tmp_path / "prompts.jsonl", prompts)
    assert read_prompt_file(tmp_path / "prompts.jsonl") == prompts
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_index_is_the_place_in_the_file_and_text_the_prompt(tmp_path: Path) -> None:
    other = {"tag": "single_object", "include": [{"class": "naïve café", "count": 1}], "prompt": "un café"}
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(other, ensure_ascii=False), encoding="utf-8")
    assert read_prompt_file(path) == (
        Prompt(index=0, text="a red circle", metadata=GOOD),
        Prompt(index=1, text="un café", metadata=other),
    )


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"tag": "colors", "prompt": "a red', "not valid JSON"),
        (b"", "not valid JSON"),
        (b'{"prompt": "\xff"}', "not valid JSON"),
        (b'["a red circle"]', "the line is a list"),
        (b'{"tag": "colors", "include": []}', "prompt is None"),
        (b'{"prompt": "  "}', "prompt is '  '"),
        (b'{"prompt": 3}', "prompt is 3"),
    ],
)
def test_a_broken_line_is_named_with_its_file(tmp_path: Path, line: bytes, complaint: str) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n" + json.dumps(GOOD).encode())
    with pytest.raises(ValueError, match=rf"broken\.jsonl:2: {complaint}.*; each line must be one prompt as JSON"):
        read_prompt_file(path)


def test_a_picture_starts_at_the_prompt_file_and_is_no_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "cat.png").touch()
    path = tmp_path / "edits.jsonl"
    path.write_text(json.dumps(GOOD | {"picture": "sources/cat.png"}) + "\n" + json.dumps(GOOD))
    monkeypatch.chdir(tmp_path)
    prompts = read_prompt_file(Path("edits.jsonl"))
    assert [prompt.picture for prompt in prompts] == [tmp_path / "sources" / "cat.png", None]
    assert [prompt.metadata for prompt in prompts] == [GOOD, GOOD]
    (tmp_path / "elsewhere").mkdir()
    write_prompt_file(tmp_path / "elsewhere" / "edits.jsonl", prompts)
    assert read_prompt_file(tmp_path / "elsewhere" / "edits.jsonl") == prompts


@pytest.mark.parametrize(
    ("picture", "complaint"),
    [
        ("dog.png", r"picture dog\.png is no file in .*, where relative paths start; give one that is there"),
        (".", r"picture \. is no file in "),
        (4000 * "a", r"picture a{100}\.\.\. is no file in "),
        ("a\0b", "picture a\0b is no file in "),
        ("", "picture is '', but must be the path of a picture; leave it out to paint from nothing"),
        (None, "picture is None, but must be"),
        (["cat.png"], r"picture is \['cat.png'\], but must be"),
    ],
)
def test_a_picture_that_is_not_there_is_named_with_its_line(tmp_path: Path, picture: object, complaint: str) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | {"picture": picture}))
    with pytest.raises(ValueError, match=rf"edits\.jsonl:2: {complaint}"):
        read_prompt_file(path)


def test_what_the_verifier_cannot_judge_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | {"tag": "rhymes"}) + "\n", encoding="utf-8")

    def only_colors(metadata: Mapping[str, Any]) -> None:
        if metadata["tag"] != "colors":
            raise ValueError(f"tag is {metadata['tag']!r}")

    assert len(read_prompt_file(path)) == 2
    with pytest.raises(ValueError, match=r"prompts\.jsonl:2: tag is 'rhymes'$"):
        read_prompt_file(path, only_colors)


def test_missing_and_empty_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.jsonl cannot be read: No such file"):
        read_prompt_file(tmp_path / "absent.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(ValueError, match=r"pipe\.jsonl is no regular file; give a JSONL file"):
        read_prompt_file(tmp_path / "pipe.jsonl")
    with pytest.raises(ValueError, match=r"a{300} cannot be read: File name too long"):
        read_prompt_file(tmp_path / (300 * "a"))
    (tmp_path / "empty.jsonl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.jsonl holds no prompt"):
        read_prompt_file(tmp_path / "empty.jsonl")
