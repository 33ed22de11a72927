"""Prompt files: JSONL in GenEval's metadata format, one prompt a line, checked line by line before anything runs.

What the metadata must hold beyond a prompt is the verifier's business: its own check comes in as an argument, so that a clause
it could not judge is found here, with file and line.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from unigrpo.types import Prompt

_RULE = "each line must be one prompt as JSON in GenEval's format"


def read_prompt_file(path: Path, check: Callable[[Mapping[str, Any]], object] | None = None) -> tuple[Prompt, ...]:
    """Read a prompt file; `check` raises ValueError for metadata that could not be judged.

    Raises ValueError, naming file and line, for a line that is no JSON object with a prompt or that `check` refuses, and for a
    file that is missing, unreadable or holds no prompt.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ValueError(f"the prompt file {path} cannot be read: {error.strerror}; give a JSONL file") from error
    prompts = []
    for number, line in enumerate(lines, start=1):
        try:
            metadata = _parse(line)
            if check is not None:
                check(metadata)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from error
        prompts.append(Prompt(index=number - 1, text=metadata["prompt"], metadata=metadata))
    if not prompts:
        raise ValueError(f"{path} holds no prompt; give one a line as JSON in GenEval's format")
    return tuple(prompts)


def write_prompt_file(path: Path, prompts: Iterable[Prompt]) -> None:
    """Write the prompts' metadata, one a line; read_prompt_file gives the same prompts again, numbered from 0."""
    lines = "".join(json.dumps(dict(prompt.metadata), ensure_ascii=False) + "\n" for prompt in prompts)
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
