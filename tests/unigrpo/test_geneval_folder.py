"""GenEval's folder layout: what is written is read again, and everything out of order is named."""

import json
import os
import re
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from unigrpo.geneval_folder import is_geneval_folder, read_geneval_folder, read_picture, write_painted_prompt
from unigrpo.types import Prompt

METADATA = {"tag": "counting", "include": [{"class": "circle", "count": 2}], "prompt": "two circles"}


def accept(metadata: Mapping[str, Any]) -> None:
    """Every prompt will do."""


def picture(seed: int) -> Tensor:
    return torch.randint(0, 256, (5, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Prompts 3 and 0, with two pictures and one."""
    for index, number in ((3, 2), (0, 1)):
        prompt = Prompt(index=index, text=f"prompt {index}", metadata={**METADATA, "prompt": f"prompt {index}"})
        write_painted_prompt(tmp_path, prompt, [picture(10 * index + each) for each in range(number)])
    return tmp_path


def encoded(kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (4, 4), (255, 0, 0)).save(buffer, format=kind, **options)
    return buffer.getvalue()


def test_what_is_written_is_read_again(folder: Path) -> None:
    painted = read_geneval_folder(folder, accept)
    assert [each.prompt.index for each in painted] == [0, 3]
    assert painted[1].prompt.metadata == {**METADATA, "prompt": "prompt 3"}
    assert painted[1].prompt.text == "prompt 3"
    assert [file.relative_to(folder).as_posix() for file in painted[1].files] == [
        "00003/samples/0000.png", "00003/samples/0001.png"
    ]  # fmt: skip
    assert torch.equal(read_picture(painted[1].files[1]), picture(31))


def test_a_folder_of_edits_is_judged_where_their_sources_are_not(tmp_path: Path) -> None:
    edit = Prompt(index=0, text="two circles", picture=Path("/sources/circle.png"), metadata=METADATA)
    write_painted_prompt(tmp_path, edit, [picture(0)])
    assert read_geneval_folder(tmp_path, accept)[0].prompt == Prompt(index=0, text="two circles", metadata=METADATA)


def test_the_layout_is_what_genevals_scorer_reads(folder: Path) -> None:
    place = folder / "00003"
    assert json.loads((place / "metadata.jsonl").read_text()) == {**METADATA, "prompt": "prompt 3"}
    assert sorted(os.listdir(place)) == ["metadata.jsonl", "samples"]
    assert all(re.match(r"\d+\.png", name) for name in os.listdir(place / "samples"))


def test_grids_other_formats_and_what_lies_beside_are_no_faults(folder: Path) -> None:
    (folder / "00003" / "grid.png").write_bytes(b"never read")
    (folder / "results.jsonl").write_text("of another scorer")
    (folder / "00003" / ".DS_Store").write_bytes(b"")
    (folder / "00000" / "samples" / "0001.webp").write_bytes(encoded("WEBP", lossless=True))
    (folder / "00000" / "samples" / "0010.jpg").write_bytes(encoded("JPEG"))
    painted = read_geneval_folder(folder, accept)
    assert [file.name for file in painted[0].files] == ["0000.png", "0001.webp", "0010.jpg"]


def test_pictures_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    write_painted_prompt(tmp_path, Prompt(index=0, text="x", metadata=METADATA), [])
    for number in (10, 9, 100):
        (tmp_path / "00000" / "samples" / f"{number}.png").write_bytes(encoded("PNG"))
    assert [file.name for file in read_geneval_folder(tmp_path, accept)[0].files] == ["9.png", "10.png", "100.png"]


def test_prompts_stand_in_the_order_of_their_numbers(folder: Path) -> None:
    (folder / "00000").rename(folder / "10")
    assert [each.prompt.index for each in read_geneval_folder(folder, accept)] == [3, 10]
    (folder / "00003").rename(folder / "9")
    assert [each.prompt.index for each in read_geneval_folder(folder, accept)] == [9, 10]


def refuse_two(metadata: Mapping[str, Any]) -> None:
    if metadata["include"][0]["count"] == 2:
        raise ValueError("cannot count to 2")


@pytest.mark.parametrize(
    ("place", "content", "message"),
    [
        ("00003/metadata.jsonl", None, "00003/metadata.jsonl is missing"),
        ("00003/metadata.jsonl", b"", "00003/metadata.jsonl holds no prompt"),
        ("00003/metadata.jsonl", b'{"prompt": ', "00003/metadata.jsonl:1: not valid JSON"),
        ("00003/metadata.jsonl", b'["x"]', "00003/metadata.jsonl:1: the line is a list"),
        ("00003/metadata.jsonl", b'{"tag": "counting"}', "00003/metadata.jsonl:1: prompt is None"),
        (
            "00003/metadata.jsonl",
            b'{"prompt": "a"}\n{"prompt": "b"}',
            "00003/metadata.jsonl holds 2 prompts, but a folder is of",
        ),
        ("00003/metadata.jsonl", b" " * (1 << 20) + b"{}", "00003/metadata.jsonl has 1048578 bytes; 1048576 are allowed"),
        ("00003/samples", None, "00003/samples is missing"),
        ("00003/samples/0001.png", b"", "00003/samples/0001.png: 0 bytes are no "),
        ("00003/samples/0001.png", encoded("PNG")[:-20], "00003/samples/0001.png: "),
        ("00003/samples/0001.png", encoded("BMP"), "send PNG or WEBP or JPEG"),
        ("00003/samples/0001.jpg", encoded("JPEG"), "00003/samples/0001.png has the number of 0001.jpg"),
        ("00003/samples/1.png", encoded("PNG"), "00003/samples/1.png has the number of 0001.png"),
        ("00003/samples/0002.gif", b"", "00003/samples/0002.gif is no picture's name, such as 0000.png"),
        ("00003/samples/best.png", encoded("PNG"), "00003/samples/best.png is no picture's name"),
        ("00003/notes.txt", b"", "00003/notes.txt has no place there"),
        ("00003/0000.png", encoded("PNG"), "00003/0000.png has no place there"),
    ],
)
def test_what_is_out_of_order_is_named(folder: Path, place: str, content: bytes | None, message: str) -> None:
    path = folder / place
    if content is not None:
        path.write_bytes(content)
    elif path.is_dir():
        path.rename(folder / "elsewhere")
    else:
        path.unlink()
    with pytest.raises(ValueError, match=r"is not in order") as raised:
        read_geneval_folder(folder, accept)
    assert message in str(raised.value)
    assert "00000" not in str(raised.value).replace("0000.png", "")


def emptied(folder: Path) -> None:
    for file in (folder / "00003" / "samples").iterdir():
        file.unlink()


def with_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "00003" / "samples" / "0002.png")


def with_a_folder_for_a_picture(folder: Path) -> None:
    (folder / "00003" / "samples" / "0002.png").mkdir()


def with_a_number_twice(folder: Path) -> None:
    write_painted_prompt(folder / "more", Prompt(index=3, text="x", metadata=METADATA), [picture(0)])
    (folder / "more" / "00003").rename(folder / "3")


def with_too_many_pixels(folder: Path) -> None:
    Image.new("1", (4097, 4096)).save(folder / "00003" / "samples" / "0002.png")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (emptied, "00003/samples holds no picture"),
        (with_a_pipe, "00003/samples/0002.png is no file"),
        (with_a_folder_for_a_picture, "00003/samples/0002.png is no file"),
        (with_a_number_twice, "/3 has the number of another folder"),
        (with_too_many_pixels, "the picture has 4097 x 4096 pixels; 16777216 are allowed"),
    ],
)
def test_what_no_picture_is_named(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(ValueError, match=r"is not in order") as raised:
        read_geneval_folder(folder, accept)
    assert message in str(raised.value)


def test_metadata_that_the_judge_refuses_is_named_with_its_folder(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"00003/metadata.jsonl:1: cannot count to 2"):
        read_geneval_folder(folder, refuse_two)


def test_ten_faults_are_listed_and_the_rest_counted(folder: Path) -> None:
    for number in range(2, 14):
        (folder / "00003" / "samples" / f"{number:04d}.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"is not in order") as raised:
        read_geneval_folder(folder, accept)
    lines = str(raised.value).splitlines()
    assert len(lines) == 13
    assert lines[10].startswith(f"  {folder}/00003/samples/0011.png: ")
    assert lines[11:] == ["  and 2 more", "mend these, or move the folders they are in elsewhere"]


def test_only_numbered_folders_with_pictures_or_metadata_make_the_layout(folder: Path, tmp_path: Path) -> None:
    assert is_geneval_folder(folder)
    other = tmp_path / "run"
    (other / "checkpoints" / "step-000002").mkdir(parents=True)
    (other / "00000").mkdir()
    assert not is_geneval_folder(other)
    assert not is_geneval_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"checkpoints holds no pictures; give a folder with 00000/metadata.jsonl and"):
        read_geneval_folder(other / "checkpoints", accept)
