"""The base of every config section: frozen, unknown keys refused; the paths they hold, and the error of what cannot run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

BUNDLED = "bundled:"
"""Before the name of a checkpoint inside this package, where a folder could stand."""


class ConfigError(ValueError):
    """A config that cannot run; the message names every fault, its value and the way out."""


def _absolute(path: Path) -> Path:
    return path if str(path).startswith(BUNDLED) else path.absolute()


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
"""A path that is the same one in every process, as actors run in other folders; `bundled:NAME` stays as it is."""


class Section(BaseModel):
    """A frozen config section that refuses keys it does not know and non-finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


def dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of a nested config. Example: {"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
