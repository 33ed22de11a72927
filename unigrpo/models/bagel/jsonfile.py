"""JSON files whose missing or wrong values are reported with their place."""

import json
import reprlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_SIZE = 1 << 20
"""Of anything that the shape of a tensor follows from."""
MAX_LAYERS = 1024
"""Of anything that is built so many times."""


@dataclass(frozen=True, slots=True)
class Section:
    """A JSON object and where it stands, so that a missing or wrong value is reported with its place."""

    values: Mapping[str, Any]
    place: str

    def size(self, key: str, default: int | None = None) -> int:
        """An integer from 1 to MAX_SIZE. Raises ValueError when it is absent without default, or something else."""
        return self._integer(key, default, 1, MAX_SIZE)

    def layers(self, key: str) -> int:
        """An integer from 1 to MAX_LAYERS. Raises ValueError when it is absent or something else."""
        return self._integer(key, None, 1, MAX_LAYERS)

    def whole(self, key: str, default: int, *, most: int = MAX_SIZE) -> int:
        """An integer from 0 to `most`. Raises ValueError when it is something else."""
        return self._integer(key, default, 0, most)

    def number(self, key: str, default: float) -> float:
        """A finite number. Raises ValueError when it is something else."""
        value = self.values.get(key, default)
        if not _is_finite(value):
            raise self._wrong(key, "a number")
        return float(value)

    def positive(self, key: str, default: float | None = None) -> float:
        """A finite number above 0. Raises ValueError when it is absent without default, or something else."""
        value = self.values.get(key, default)
        if not _is_finite(value) or value <= 0:
            raise self._wrong(key, "a number above 0")
        return float(value)

    def sizes(self, key: str, default: Sequence[int], *, most: int) -> tuple[int, ...]:
        """1 to `most` integers, each from 1 to MAX_SIZE. Raises ValueError when it is something else."""
        values = self.values.get(key, default)
        if (
            not isinstance(values, Sequence)
            or not 1 <= len(values) <= most
            or not all(_is_integer(value, 1, MAX_SIZE) for value in values)
        ):
            raise self._wrong(key, f"a list of 1 to {most} integers from 1 to {MAX_SIZE}")
        return tuple(values)

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

    def _integer(self, key: str, default: int | None, least: int, most: int) -> int:
        value: Any = self.values.get(key, default)
        if not _is_integer(value, least, most):
            raise self._wrong(key, f"an integer from {least} to {most}")
        return int(value)

    def _wrong(self, key: str, allowed: str) -> ValueError:
        given = f"is {reprlib.repr(self.values[key])}" if key in self.values else "is missing"
        return ValueError(f"{key} {given} in {self.place}; it must be {allowed}")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError naming the file."""
    if not path.is_file():  # not asked of the error of opening it: a named pipe would be waited for
        raise ValueError(f"{path} is {'no file' if path.exists() else 'missing'}; a BAGEL checkpoint folder holds it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); allow it, or give another folder") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); copy it again from its source") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}; it must hold an object")
    return content


def _is_integer(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_finite(value: object) -> bool:
    """Whether it is a number that a float can hold: JSON has integers beyond, and Python's reader NaN and Infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
