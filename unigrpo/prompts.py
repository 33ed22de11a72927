"""Prompt files: JSONL in GenEval's metadata format, one prompt a line, checked line by line before anything runs.

A line may name a picture to edit, `"picture": "cat.png"`, a path that starts at the prompt file's folder. What the metadata
must hold beyond a prompt is the verifier's business: its own check comes in as an argument, so that a clause it could not judge
is found here, with file and line.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from unigrpo.types import Prompt

SHOWN = 100
"""Characters of a picture's name that an error quotes."""
_RULE = "each line must be one prompt as JSON in GenEval's format"


def read_prompt_file(path: Path, check: Callable[[Mapping[str, Any]], object] | None = None) -> tuple[Prompt, ...]:
    """Read a prompt file; `check` raises ValueError for metadata that could not be judged.

    Raises ValueError, naming file and line, for a line that is no JSON object with a prompt, whose picture is missing, or that
    `check` refuses, and for a file that is missing, unreadable or holds no prompt. Pictures are not opened.
    """
    try:
        if path.exists() and not path.is_file():  # a named pipe would be waited for
            raise ValueError(f"the prompt file {path} is no regular file; give a JSONL file")
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ValueError(f"the prompt file {path} cannot be read: {error.strerror}; give a JSONL file") from error
    prompts = []
    for number, line in enumerate(lines, start=1):
        try:
            metadata = _parse(line)
            picture = _taken_picture(metadata, path.absolute().parent)
            if check is not None:
                check(metadata)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from error
        prompts.append(Prompt(index=number - 1, text=metadata["prompt"], picture=picture, metadata=metadata))
    if not prompts:
        raise ValueError(f"{path} holds no prompt; give one a line as JSON in GenEval's format")
    return tuple(prompts)


def write_prompt_file(path: Path, prompts: Iterable[Prompt]) -> None:
    """Write the prompts' metadata and pictures, one a line; read_prompt_file gives the same prompts again, numbered from 0."""
    lines = "".join(json.dumps(_line_of(prompt), ensure_ascii=False) + "\n" for prompt in prompts)
    beside = path.with_name(path.name + ".part")
    beside.write_text(lines, encoding="utf-8")
    os.replace(beside, path)


def _parse(line: bytes) -> dict[str, Any]:
    """One line's metadata. Raises ValueError saying what is wrong with it."""
    try:
        metadata = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not valid JSON ({error}); {_RULE}") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"the line is a {type(metadata).__name__}, not an object with the key prompt; {_RULE}")
    text = metadata.get("prompt")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"prompt is {text!r}, but must be a text that is not empty; {_RULE}")
    return metadata


def _taken_picture(metadata: dict[str, Any], folder: Path) -> Path | None:
    """Take a line's picture out of its metadata, as it is none of a verifier's clauses. Raises ValueError where no file is."""
    if "picture" not in metadata:
        return None
    name = metadata.pop("picture")
    if not isinstance(name, str) or not name:
        raise ValueError(f"picture is {name!r}, but must be the path of a picture; leave it out to paint from nothing")
    if not os.path.isfile(folder / name):  # Path.is_file raises for a name that no file can have
        shown = name if len(name) <= SHOWN else f"{name[:SHOWN]}..."
        raise ValueError(f"picture {shown} is no file in {folder}, where relative paths start; give one that is there")
    return folder / name


def _line_of(prompt: Prompt) -> dict[str, Any]:
    return {**prompt.metadata, **({} if prompt.picture is None else {"picture": str(prompt.picture)})}
