"""Pictures in GenEval's own folder layout, to be judged whoever painted them, and to be written for others to judge.

    FOLDER/00000/metadata.jsonl      the prompt: one JSON object
    FOLDER/00000/samples/0000.png    its pictures; WebP and JPEG are read too
    FOLDER/00000/grid.png            not read

GenEval's scorer (arXiv:2310.11513) passes over whatever has another name. Here it is a fault, as is anything missing: a score
over fewer pictures than someone thinks is worse than none. Beside the numbered folders anything may lie.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from unigrpo.pictures import decode_picture, encode_png
from unigrpo.prompts import read_prompt_file, write_prompt_file
from unigrpo.types import Prompt

METADATA, SAMPLES = "metadata.jsonl", "samples"
FORMATS = ("PNG", "WEBP", "JPEG")
MAX_FILE_BYTES = 128 << 20
"""Of one picture, known before it is read; 16 million pixels hardly need half of it."""
MAX_METADATA_BYTES = 1 << 20
MAX_FAULTS = 10
"""Faults that one error lists."""
_NUMBER = re.compile(r"[0-9]{1,9}")
_SAMPLE = re.compile(r"([0-9]{1,9})\.(png|webp|jpg|jpeg)")
_GRID = re.compile(r"grid\.[a-z]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class PaintedPrompt:
    """One numbered folder. Example: 00007 with four pictures -> prompt.index 7, four files."""

    prompt: Prompt
    """Its index is the folder's number."""
    files: tuple[Path, ...]
    """Its pictures, in the order of their numbers."""


def is_geneval_folder(folder: Path) -> bool:
    """Whether `folder` holds numbered folders with metadata or samples in them."""
    return folder.is_dir() and any((each / METADATA).exists() or (each / SAMPLES).is_dir() for each in _numbered(folder))


def read_geneval_folder(folder: Path, check: Callable[[Mapping[str, Any]], object]) -> list[PaintedPrompt]:
    """The prompts of a folder in the order of their numbers, once every picture was decoded (none is kept).

    `check` raises ValueError for metadata that could not be judged. Raises ValueError that names the file of each fault, up to
    MAX_FAULTS of them: what is missing, empty, broken, too large or has no place there, and numbers that stand twice.
    """
    painted: list[PaintedPrompt] = []
    faults: list[str] = []
    for place in sorted(_numbered(folder), key=lambda each: (int(each.name), each.name)):
        prompt = _prompt(place, check, faults)
        files = list(_samples(place, faults))
        faults += [fault for file in files if (fault := _fault_of(file))]
        faults += [f"{each} has no place there" for each in _strangers(place)]
        if painted and painted[-1].prompt.index == int(place.name):
            faults.append(f"{place} has the number of another folder")
        if prompt is not None:
            painted.append(PaintedPrompt(prompt=prompt, files=tuple(files)))
    if faults:
        more = [f"and {len(faults) - MAX_FAULTS} more"] if len(faults) > MAX_FAULTS else []
        listed = "\n".join(f"  {line}" for line in [*faults[:MAX_FAULTS], *more])
        raise ValueError(f"{folder} is not in order:\n{listed}\nmend these, or move the folders they are in elsewhere")
    if not painted:
        raise ValueError(f"{folder} holds no pictures; give a folder with 00000/{METADATA} and 00000/{SAMPLES}/0000.png")
    return painted


def read_picture(file: Path) -> Tensor:
    """[H, W, 3] uint8. Raises ValueError, naming the file, for what is no whole picture within the limits."""
    _require_modest(file, MAX_FILE_BYTES)
    try:
        return decode_picture(file.read_bytes(), formats=FORMATS)
    except (ValueError, OSError) as error:
        raise ValueError(f"{file}: {error}") from None


def write_painted_prompt(folder: Path, prompt: Prompt, images: Sequence[Tensor]) -> list[str]:
    """Write a prompt and its [H, W, 3] uint8 pictures; the pictures' names below `folder`. Raises OSError where files are.

    A picture that the prompt edits is left out: the layout has no place for it, and judges need not have it.
    """
    place = Path(f"{prompt.index:05d}")
    (folder / place / SAMPLES).mkdir(parents=True)
    write_prompt_file(folder / place / METADATA, [replace(prompt, picture=None)])
    names = [(place / SAMPLES / f"{number:04d}.png").as_posix() for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        (folder / name).write_bytes(encode_png(image))
    return names


def _numbered(folder: Path) -> Iterator[Path]:
    return (each for each in folder.iterdir() if _NUMBER.fullmatch(each.name) and each.is_dir())


def _prompt(place: Path, check: Callable[[Mapping[str, Any]], object], faults: list[str]) -> Prompt | None:
    try:
        _require_modest(place / METADATA, MAX_METADATA_BYTES)
        prompts = read_prompt_file(place / METADATA, check)
    except ValueError as error:
        faults.append(str(error))
        return None
    if len(prompts) > 1:
        faults.append(f"{place / METADATA} holds {len(prompts)} prompts, but a folder is of one")
        return None
    return replace(prompts[0], index=int(place.name))


def _samples(place: Path, faults: list[str]) -> Iterator[Path]:
    """The pictures of a prompt in order; what else is wrong with its samples goes to `faults`."""
    folder = place / SAMPLES
    if not folder.is_dir():
        faults.append(f"{folder} is missing")
        return
    found: dict[int, Path] = {}
    for file in sorted(_visible(folder)):
        name = _SAMPLE.fullmatch(file.name)
        if name is None:
            faults.append(f"{file} is no picture's name, such as 0000.png")
        elif int(name[1]) in found:
            faults.append(f"{file} has the number of {found[int(name[1])].name}")
        else:
            found[int(name[1])] = file
    if not found:
        faults.append(f"{folder} holds no picture")
    yield from (found[number] for number in sorted(found))


def _require_modest(file: Path, max_bytes: int) -> None:
    """Raises ValueError for what is no file, such as a pipe that nobody writes to, or too large a one."""
    if not file.is_file():
        raise ValueError(f"{file} is {'no file' if file.exists() else 'missing'}")
    if (size := file.stat().st_size) > max_bytes:
        raise ValueError(f"{file} has {size} bytes; {max_bytes} are allowed")


def _fault_of(file: Path) -> str | None:
    try:
        read_picture(file)
    except ValueError as error:
        return str(error)
    return None


def _strangers(place: Path) -> list[Path]:
    return [each for each in sorted(_visible(place)) if each.name not in (METADATA, SAMPLES) and not _GRID.fullmatch(each.name)]


def _visible(folder: Path) -> Iterator[Path]:
    return (each for each in folder.iterdir() if not each.name.startswith("."))
