"""JSON files whose missing or wrong values are reported with their place."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Section:
    """A JSON object and where it stands, so that a missing or wrong value is reported with its place."""

    values: Mapping[str, Any]
    place: str

    def size(self, key: str, default: int | None = None) -> int:
        """A positive integer. Raises ValueError when it is absent without default, or something else."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise self._wrong(key, "a positive integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number. Raises ValueError when it is absent without default, or something else."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._wrong(key, "a number")
        return float(value)

    def whole(self, key: str, default: int) -> int:
        """An integer of at least 0. Raises ValueError when it is something else."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self._wrong(key, "an integer of at least 0")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false. Raises ValueError when it is something else."""
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def section(self, key: str) -> "Section":
        """The object under a key. Raises ValueError when there is none."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self._wrong(key, "an object")
        return Section(value, f"{key} in {self.place}")

    def _wrong(self, key: str, allowed: str) -> ValueError:
        given = f"is {self.values[key]!r}" if key in self.values else "is missing"
        return ValueError(f"{key} {given} in {self.place}; it must be {allowed}")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; a BAGEL checkpoint folder holds it") from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); copy it again from its source") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}; it must hold an object")
    return content
