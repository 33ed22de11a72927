"""Fine-tuning data of a user: JSONL, one example a line, checked line by line before anything starts.

    {"prompt": "a red cube", "image": "cube.png"}
    {"prompt": "make it night", "source_image": "day.png", "thought": "<think> A dark sky. </think>", "image": "night.png"}

Paths of pictures start at the file's folder. A thought is learned exactly as it stands, with its tags or without. null stands
for an absent thought or source_image. Of pictures only the header is read here; each is decoded when it is used.
"""

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from unigrpo.models.bagel.preprocess import MAX_SOURCE_BYTES, SOURCE_FORMATS, read_source
from unigrpo.pictures import MAX_PIXELS, header_fault
from unigrpo.seeds import derive_seed
from unigrpo.sft_item import SftItem

REQUIRED, OPTIONAL = ("prompt", "image"), ("thought", "source_image")
PICTURES = ("image", "source_image")
MAX_FAULTS = 10
"""Faults that one error lists."""
SHOWN = 60
"""Characters of a wrong value that an error quotes."""
GIVE = f"give a picture in {', '.join(SOURCE_FORMATS[:-1])} or {SOURCE_FORMATS[-1]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SftLine:
    """One line. Example: SftLine(place="data.jsonl:7", prompt="a red cube", image=Path("/data/cube.png"))."""

    place: str
    """File and line, for errors."""
    prompt: str
    """What is asked for."""
    image: Path
    """The picture to paint."""
    thought: str | None = None
    """What is thought before; None paints straight from the prompt."""
    source_image: Path | None = None
    """The picture to edit, if any."""

    def item(self, system_prompt: str) -> SftItem:
        """The example with its pictures decoded; `system_prompt` stands before the prompt where there is a thought.

        Raises ValueError, naming line and key, for a picture that cannot be decoded after all.
        """
        return SftItem(
            system=system_prompt if self.thought is not None else "",
            source_HW3=None if self.source_image is None else self._decoded("source_image", self.source_image),
            prompt=self.prompt,
            thought=self.thought,
            image_HW3=self._decoded("image", self.image),
        )

    def _decoded(self, key: str, path: Path) -> Any:
        try:
            return read_source(path)
        except ValueError as error:
            raise ValueError(f"{self.place}: {key}: {error}; mend or replace it and start again to resume the run") from None


def read_sft_file(path: Path) -> tuple[SftLine, ...]:
    """Read a data file, at least one line long.

    Raises ValueError, naming line and key of each fault, up to MAX_FAULTS of them: a line that is no JSON object, a key that is
    unknown, missing, twice there, of the wrong type or empty, a picture that is not there or whose header is refused. Raises
    ValueError for a file that cannot be read or holds nothing.
    """
    lines: list[SftLine] = []
    faults: list[str] = []
    try:
        if path.exists() and not path.is_file():  # a named pipe would be waited for
            raise ValueError(f"the data file {path} is no regular file; give a JSONL file")
        with path.open("rb") as file:
            for number, content in enumerate(file, start=1):
                place = f"{path}:{number}"
                values, found = _checked(content, path.parent)
                faults += [f"{place}: {fault}" for fault in found]
                if not found:
                    lines.append(SftLine(place=place, **values))
    except OSError as error:
        raise ValueError(f"the data file {path} cannot be read: {error.strerror}; give a JSONL file") from error
    refuse(faults, path)
    if not lines:
        raise ValueError(f"{path} holds no example; give one a line as JSON with the keys {' and '.join(REQUIRED)}")
    return tuple(lines)


def refuse(faults: Sequence[str], path: Path) -> None:
    """Raises ValueError with the first MAX_FAULTS faults of a data file, if there are any."""
    if faults:
        more = [f"and {len(faults) - MAX_FAULTS} more"] if len(faults) > MAX_FAULTS else []
        listed = "\n".join(f"  {line}" for line in [*faults[:MAX_FAULTS], *more])
        raise ValueError(f"{path} is not in order:\n{listed}\nmend these lines or take them out")


def lines_of_step(lines: Sequence[SftLine], *, seed: int, step: int, count: int) -> list[SftLine]:
    """The `count` lines of a step, a function of (seed, step): every pass over all lines is shuffled by (seed, pass)."""
    places = range(step * count, (step + 1) * count)
    orders = {
        epoch: np.random.default_rng(derive_seed(seed, "sft order", epoch)).permutation(len(lines))
        for epoch in {place // len(lines) for place in places}
    }
    return [lines[orders[place // len(lines)][place % len(lines)]] for place in places]


def _checked(content: bytes, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The values of a line, pictures as paths, and its faults."""
    try:
        values = json.loads(content.rstrip(), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        wrong = f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else error
        return {}, [f"not valid JSON ({wrong}); write one JSON object a line"]
    if not isinstance(values, dict):
        return {}, [f"the line holds a {type(values).__name__}, not an object with the keys {' and '.join(REQUIRED)}"]
    values = {key: value for key, value in values.items() if value is not None or key not in OPTIONAL}
    faults = [*_faults_of_keys(values)]
    for key in PICTURES:
        if isinstance(values.get(key), str) and values[key].strip():
            values[key] = folder / values[key]
            faults += [f"{key} is {values[key]}: {fault}" for fault in [picture_fault(values[key])] if fault]
    return values, faults


def _faults_of_keys(values: dict[str, Any]) -> Iterator[str]:
    known = (*REQUIRED, *OPTIONAL)
    for key in REQUIRED:
        if key not in values:
            yield f"{key} is missing; every line needs {' and '.join(REQUIRED)}"
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            yield f"{_shown(key)}: unknown key; {hint}"
        elif not isinstance(value, str):
            yield f"{key} is {_shown(value)} ({type(value).__name__}); it must be a text"
        elif not value.strip():
            yield f"{key} is {_shown(value)}; {'leave it out' if key in OPTIONAL else 'it must not be empty'}"


def picture_fault(path: Path) -> str | None:
    """Why a picture file cannot be used, as far as its header tells."""
    try:
        if not path.is_file():
            return f"there is no such file; {GIVE}"
        if (size := path.stat().st_size) > MAX_SOURCE_BYTES:
            return f"the file has {size} bytes; {MAX_SOURCE_BYTES} are allowed, save the picture smaller"
        with Image.open(path, formats=list(SOURCE_FORMATS)) as picture:
            return header_fault(picture, MAX_PIXELS)
    except UnidentifiedImageError:
        return f"this is no picture that can be read; {GIVE}"
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers of damaged headers raise TypeError, struct.error and more
        return f"the picture cannot be read ({type(error).__name__}: {error}); {GIVE}"


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{_shown(next(key for key in keys if keys.count(key) > 1))} stands twice in an object")
    return values


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
