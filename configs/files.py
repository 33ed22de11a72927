"""YAML files that hold a config, or only what differs from another one's."""

from pathlib import Path
from typing import Any

import yaml

from configs.base import ConfigError

BASE = "base"
"""The key that names the file a YAML file starts from, relative to itself."""


def read(path: Path) -> dict[str, Any]:
    """The values of a YAML file, laid over those of the chain of files that its `base` names.

    Raises ConfigError for a file that is missing or no mapping, and for a chain that comes back to itself.
    """
    chain: list[tuple[Path, dict[str, Any]]] = []
    following: Path | None = path
    while following is not None:
        if any(following.resolve() == seen.resolve() for seen, _ in chain):
            names = " -> ".join(str(each) for each in [*(seen for seen, _ in chain), following])
            raise ConfigError(f"config {path} never ends: {names}; let one of them name no base")
        values = _mapping(following, chain[-1][0] if chain else None)
        base = values.pop(BASE, None)
        if base is not None and not isinstance(base, str):
            raise ConfigError(
                f"config {following}: base is {base!r}; give the path of one YAML file, from the folder of this one"
            )
        chain.append((following, values))
        following = None if base is None else following.parent / base
    merged: dict[str, Any] = {}
    for _, values in reversed(chain):
        merged = laid_over(merged, values)
    return merged


def laid_over(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`own` on top of `base`: sections key by key, all else replaced; a section of another `kind` is replaced whole."""
    merged = dict(base)
    for key, value in own.items():
        below = base.get(key)
        if isinstance(below, dict) and isinstance(value, dict) and value.get("kind", below.get("kind")) == below.get("kind"):
            value = laid_over(below, value)
        merged[key] = value
    return merged


def _mapping(path: Path, asker: Path | None) -> dict[str, Any]:
    if not path.is_file():
        if asker is not None:
            raise ConfigError(
                f"config {asker} names base {path}, which does not exist; give a path from the folder of {asker.name}"
            )
        raise ConfigError(f"config {path} does not exist; give the path of a YAML file, such as configs/quickstart.yaml")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"config {path} holds {type(values).__name__}; it must be a mapping of keys to values")
    return values
