"""A user's fine-tuning data: what is read of it, every fault by line and key, and the order of its lines."""

import json
import os
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unigrpo.pictures import encode_png
from unigrpo.sft_file import SftLine, lines_of_step, picture_fault, read_sft_file

RED = torch.tensor([255, 0, 0], dtype=torch.uint8).expand(4, 6, 3)
GOOD = {"prompt": "a red cube", "image": "red.png"}


def write(folder: Path, *lines: object) -> Path:
    """data.jsonl of these lines (bytes as they are) beside a picture red.png."""
    (folder / "red.png").write_bytes(encode_png(RED))
    path = folder / "data.jsonl"
    path.write_bytes(b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines))
    return path


def error_of(path: Path) -> str:
    with pytest.raises(ValueError, match=str(path)) as raised:
        read_sft_file(path)
    return str(raised.value)


def test_lines_are_read_as_they_stand_with_paths_from_the_file_s_folder(tmp_path: Path) -> None:
    thought = " <think> Stack\nthem. </think>\n"
    path = write(
        tmp_path,
        GOOD,
        {**GOOD, "thought": thought, "source_image": str(tmp_path / "red.png")},
        {**GOOD, "thought": None, "source_image": None},
    )
    image = tmp_path / "red.png"
    assert read_sft_file(path) == (
        SftLine(place=f"{path}:1", prompt="a red cube", image=image),
        SftLine(place=f"{path}:2", prompt="a red cube", image=image, thought=thought, source_image=image),
        SftLine(place=f"{path}:3", prompt="a red cube", image=image),
    )


def test_an_item_has_its_pictures_and_a_system_prompt_where_there_is_a_thought(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, {**GOOD, "thought": "left", "source_image": "red.png"})
    plain, thinking = (line.item("Think first.") for line in read_sft_file(path))
    assert (plain.system, plain.thought, plain.source_HW3) == ("", None, None)
    assert (thinking.system, thinking.thought, thinking.prompt) == ("Think first.", "left", "a red cube")
    assert thinking.source_HW3 is not None
    for image_HW3 in (plain.image_HW3, thinking.image_HW3, thinking.source_HW3):
        assert torch.equal(image_HW3, RED)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{", "not valid JSON (Expecting property name enclosed in double quotes at character 1)"),
        (b"", "not valid JSON (Expecting value at character 0)"),
        (b'{"prompt": "\xff", "image": "red.png"}', "not valid JSON ('utf-8' codec can't decode byte 0xff"),
        (b"[" * 100_000, "not valid JSON (maximum recursion depth exceeded"),
        (b'{"prompt": "a", "prompt": "b", "image": "red.png"}', "not valid JSON ('prompt' stands twice in an object)"),
        (["a", "red.png"], "the line holds a list, not an object with the keys prompt and image"),
        ({"image": "red.png"}, "prompt is missing; every line needs prompt and image"),
        ({"prompt": "a"}, "image is missing; every line needs prompt and image"),
        ({**GOOD, "promt": "a"}, "'promt': unknown key; did you mean prompt?"),
        ({**GOOD, "x": "a"}, "'x': unknown key; known are prompt, image, thought, source_image"),
        ({**GOOD, "prompt": 3}, "prompt is 3 (int); it must be a text"),
        ({**GOOD, "prompt": None}, "prompt is None (NoneType); it must be a text"),
        ({**GOOD, "image": ["red.png"]}, "image is ['red.png'] (list); it must be a text"),
        ({**GOOD, "thought": 80 * [1]}, "thought is [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,... (list)"),
        ({**GOOD, "prompt": " "}, "prompt is ' '; it must not be empty"),
        ({**GOOD, "thought": ""}, "thought is ''; leave it out"),
        ({**GOOD, "source_image": ""}, "source_image is ''; leave it out"),
        ({**GOOD, "image": "blue.png"}, "blue.png: there is no such file; give a picture in PNG, JPEG or WEBP"),
        ({**GOOD, "source_image": "."}, ": there is no such file; give a picture in PNG, JPEG or WEBP"),
        ({**GOOD, "image": "a" * 300}, ": the picture cannot be read (OSError: [Errno 36] File name too long"),
        (
            {**GOOD, "source_image": "data.jsonl"},
            "data.jsonl: this is no picture that can be read; give a picture in PNG, JPEG or WEBP",
        ),
    ],
)
def test_each_fault_names_its_line_and_the_way_out(tmp_path: Path, line: object, fault: str) -> None:
    path = write(tmp_path, GOOD, line, GOOD)
    message = error_of(path)
    first, named, last = message.splitlines()
    assert first == f"{path} is not in order:"
    assert named.startswith(f"  {path}:2: ")
    assert fault in named
    assert last == "mend these lines or take them out"


def png_of(width: int, height: int) -> bytes:
    """A PNG that holds nothing but its header."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def save_frames(path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(path, format="PNG", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("save", "fault"),
    [
        (lambda path: path.write_bytes(png_of(4097, 4096)), "the picture has 4097 x 4096 pixels; 16777216 are allowed"),
        (lambda path: path.write_bytes(png_of(30_000, 30_000)), "DecompressionBombError"),
        (save_frames, "the picture has several frames; send one"),
        (lambda path: Image.fromarray(np.zeros((2, 2), np.uint16)).save(path), "more than 8 bits a channel"),
        (lambda path: Image.new("RGB", (2, 2)).save(path, format="BMP"), "this is no picture that can be read"),
    ],
)
def test_headers_are_refused_before_anything_is_decoded(tmp_path: Path, save: Callable[[Path], object], fault: str) -> None:
    save(tmp_path / "picture.png")
    assert fault in (picture_fault(tmp_path / "picture.png") or "")


@pytest.mark.parametrize(("mode", "kind"), [("RGB", "JPEG"), ("RGBA", "WEBP"), ("P", "PNG"), ("L", "PNG"), ("RGBA", "PNG")])
def test_pictures_of_every_kind_that_is_converted_pass(tmp_path: Path, mode: str, kind: str) -> None:
    Image.new(mode, (1, 1)).save(tmp_path / "picture", format=kind)
    assert picture_fault(tmp_path / "picture") is None


def test_faults_come_together_and_no_more_than_ten_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path, *[{"prompt": "", "image": f"{number}.png"} for number in range(6)])
    listed = error_of(path).splitlines()[1:-1]
    assert listed[0] == f"  {path}:1: prompt is ''; it must not be empty"
    assert listed[1].startswith(f"  {path}:1: image is {tmp_path}/0.png: there is no such file")
    assert listed[10] == "  and 2 more"
    assert len(listed) == 11


def test_a_file_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    assert "cannot be read: No such file or directory; give a JSONL file" in error_of(tmp_path / "none.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "pipe.jsonl is no regular file; give a JSONL file" in error_of(tmp_path / "pipe.jsonl")
    assert "holds no example; give one a line as JSON with the keys prompt and image" in error_of(write(tmp_path))


def test_a_picture_that_proves_corrupt_is_named_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, {**GOOD, "source_image": "cut.png"})
    noise = torch.randint(256, (64, 64, 3), generator=torch.Generator().manual_seed(0)).byte()
    (tmp_path / "cut.png").write_bytes(encode_png(noise)[:5000])
    line = read_sft_file(path)[1]
    with pytest.raises(ValueError, match=rf"^{path}:2: source_image: {tmp_path}/cut.png: .* start again to resume the run$"):
        line.item("")


def places(seed: int, step: int, *, count: int = 4, total: int = 6) -> list[str]:
    lines = [SftLine(place=str(number), prompt="", image=Path()) for number in range(total)]
    return [line.place for line in lines_of_step(lines, seed=seed, step=step, count=count)]


def test_every_pass_sees_every_line_once_in_an_order_of_its_own() -> None:
    seen = [place for step in range(6) for place in places(3, step)]
    passes = [seen[start : start + 6] for start in range(0, 24, 6)]
    for each in passes:
        assert sorted(each) == ["0", "1", "2", "3", "4", "5"]
    assert len({tuple(each) for each in passes}) > 1
    assert seen != [place for step in range(6) for place in places(4, step)]


def test_a_step_larger_than_the_file_takes_lines_again() -> None:
    assert Counter(places(0, 1, count=12)) == Counter({str(number): 2 for number in range(6)})
    assert places(0, 0, count=12) == [*places(0, 0, count=6), *places(0, 1, count=6)]
