"""A short name for everything that decides a verdict: contents of files and settings. Verifiers take it for their version."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_SUFFIXES = frozenset({".safetensors", ".json", ".jinja", ".txt", ".model", ".onnx"})
"""What counts of a model's folder: weights, settings, vocabularies; a README does not."""


def fingerprint(*paths: Path, settings: Mapping[str, Any]) -> str:
    """32 hex digits that change with the content of any of the files and with any setting, and with nothing else.

    A path is a file, or a folder of which the files with one of _SUFFIXES count, by name, those in folders below it too. Where
    it lies does not matter, the order of the paths does. `settings` are JSON values. Reads every byte: call it once, when a
    verifier is built. Raises ValueError for a path that is not there, or a folder without any such file.
    """
    digest = hashlib.blake2b(digest_size=16)
    for number, path in enumerate(paths):
        for name, file in _files(path):
            with file.open("rb") as content:
                digest.update(json.dumps([number, name, hashlib.file_digest(content, "blake2b").hexdigest()]).encode())
    digest.update(json.dumps(settings, sort_keys=True, allow_nan=False).encode())
    return digest.hexdigest()


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    """The files that count, each with its name below `path` (empty when `path` is a file itself), sorted by name."""
    if path.is_file():
        yield "", path
        return
    if not path.is_dir():
        raise ValueError(f"{path} is neither a file nor a folder; give the path of a model that is there")
    found = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.suffix in _SUFFIXES)
    if not found:
        raise ValueError(f"{path} holds no file of {sorted(_SUFFIXES)}; give the folder of a model")
    yield from found
