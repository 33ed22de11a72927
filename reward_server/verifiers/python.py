"""Python: a verifier of the user's own, named as `package.module:Class` or by an entry point (docs/verifiers.md)."""

import importlib.metadata
import inspect
import logging
import math
import operator
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any

from torch import Tensor

from configs.verifiers import PythonReward
from reward_server.fingerprint import fingerprint
from unigrpo.types import Prompt, Score, ScoreFailure

log = logging.getLogger(__name__)

ENTRY_POINTS = "unigrpo.verifiers"
"""The group in which an installed package names its verifiers."""
_SHOWN = 300
"""Letters of a wrong answer that a failure quotes."""


class PythonVerifier:
    """Asks an object of the user's class, and turns what it answers into verdicts.

    Raises ValueError for a class that is not found, does not take the options, has no `score`, or declares bounds or a version
    that are none. What its own `__init__` raises passes through.
    """

    breakdown_keys: frozenset[str] = frozenset()
    num_retries = 0

    def __init__(self, config: PythonReward) -> None:
        judge = user_class(config)
        try:
            inspect.signature(judge).bind(**config.options)
        except TypeError as error:
            raise ValueError(
                f"reward.options {sorted(config.options)} do not fit {_name(judge)}{inspect.signature(judge)}: {error}"
            ) from None
        self._judge = judge(**config.options)
        self._asked = f"{_name(judge)}.score"
        self.bounds = _bounds(self._judge)
        self.version = _version(self._judge, config)

    @staticmethod
    def validate_metadata(config: PythonReward, metadata: Mapping[str, Any]) -> None:
        """Ask the class's own `validate_metadata`, if it has one; no object is made for it."""
        judge = user_class(config)
        if not hasattr(judge, "validate_metadata"):
            return
        if not isinstance(inspect.getattr_static(judge, "validate_metadata"), staticmethod | classmethod):
            raise ValueError(f"{_name(judge)}.validate_metadata needs an object; put @staticmethod above it")
        try:
            judge.validate_metadata(metadata)
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(f"{_name(judge)}.validate_metadata broke: {type(error).__name__}: {error}") from error

    def score(self, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> list[Score | ScoreFailure]:
        answers = self._judge.score(prompts, images)
        if not isinstance(answers, list | tuple) or len(answers) != len(images):
            given = f"{len(answers)} answers" if isinstance(answers, list | tuple) else f"a {type(answers).__name__}"
            reason = f"{self._asked} gave {given} for {len(images)} pictures; it must give a list of one answer a picture"
            log.error(reason)
            return [ScoreFailure(reason=reason)] * len(images)
        return [self._verdict(answer) for answer in answers]

    def _verdict(self, answer: object) -> Score | ScoreFailure:
        """A user's answer as a verdict: a Score or ScoreFailure itself, a number, or a dict with the number as "value"."""
        if isinstance(answer, Score | ScoreFailure):
            return answer
        fields: dict[Any, Any] = answer if isinstance(answer, dict) else {"value": answer}
        if "value" not in fields or not _is_number(fields["value"]):
            return self._refused(answer, 'give a finite number, or a dict with one as "value"')
        parts = {name: part for name, part in fields.items() if name != "value"}
        if odd := [
            name for name, part in parts.items() if not isinstance(name, str) or not (isinstance(part, str) or _is_number(part))
        ]:
            return self._refused(answer, f"a breakdown holds finite numbers and texts by name, unlike {odd}")
        breakdown = {name: part if isinstance(part, str) else float(part) for name, part in parts.items()}
        return Score(value=float(fields["value"]), breakdown=breakdown)

    def _refused(self, answer: object, rule: str) -> ScoreFailure:
        reason = f"{self._asked} gave {repr(answer)[:_SHOWN]}; {rule}"
        log.error(reason)
        return ScoreFailure(reason=reason)


def user_class(config: PythonReward) -> type[Any]:
    """The class that reward.verifier names. Raises ValueError, saying what was looked for and where."""
    if config.verifier is None:
        raise ValueError("reward.verifier is null; set it to package.module:Class or to the name of an entry point")
    return _found(config.verifier, config.folder)


@cache
def _found(name: str, folder: Path | None) -> type[Any]:
    if folder is not None and str(folder) not in sys.path:
        sys.path.append(str(folder))  # last, so that no file of the user's hides a library
    found = _by_path(name, folder) if ":" in name else _by_entry_point(name)
    if not isinstance(found, type) or not callable(getattr(found, "score", None)):
        raise ValueError(f"reward.verifier {name} is {found!r}; it must be a class with a method score(prompts, images)")
    return found


def _by_path(name: str, folder: Path | None) -> object:
    """What `package.module:Class` means; with a folder, in a module of that folder."""
    place, _, attribute = name.partition(":")
    try:
        module = pkgutil.resolve_name(f"{place}:")
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise ValueError(f"reward.verifier {name}: importing {place} needs {error.name}, which is not installed") from error
        where = "set reward.folder to the folder it lies in" if folder is None else f"{folder} holds no such module"
        raise ValueError(f"reward.verifier {name}: there is no module {error.name}; {where}, or install its package") from None
    except (Exception, SystemExit) as error:
        raise ValueError(f"reward.verifier {name}: importing {place} failed: {type(error).__name__}: {error}") from error
    source = getattr(module, "__file__", None)
    if folder is not None and not (source and Path(source).resolve().is_relative_to(folder.resolve())):
        raise ValueError(f"reward.verifier {name} comes from {source}, not from reward.folder {folder}; rename the module")
    try:
        return operator.attrgetter(attribute)(module)
    except AttributeError:
        known = [key for key, value in vars(module).items() if isinstance(value, type) and value.__module__ == place]
        raise ValueError(f"reward.verifier {name}: {source} has no {attribute!r}; its classes are {known}") from None


def _by_entry_point(name: str) -> object:
    points = importlib.metadata.entry_points(group=ENTRY_POINTS)
    matching = points.select(name=name)
    if len(matching) != 1:
        there = ", ".join(sorted({point.name for point in points})) or "none"
        raise ValueError(
            f"reward.verifier is {name!r}: {len(matching)} installed packages have an entry point of that name in the group "
            f"{ENTRY_POINTS} (there: {there}); name one, or write package.module:Class"
        )
    [point] = matching
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"reward.verifier {name} ({point.value}): loading it failed: {type(error).__name__}: {error}"
        ) from error


def _bounds(judge: object) -> tuple[float, float]:
    """The least and greatest score that the object declares; any number where it declares none."""
    bounds = getattr(judge, "bounds", (-math.inf, math.inf))
    pair = isinstance(bounds, list | tuple) and len(bounds) == 2 and all(isinstance(bound, Real) for bound in bounds)
    if not pair or not bounds[0] < bounds[1]:
        raise ValueError(
            f"{_name(type(judge))}.bounds is {bounds!r}; give the least and the greatest score, such as (0.0, 1.0)"
        )
    return float(bounds[0]), float(bounds[1])


def _version(judge: object, config: PythonReward) -> str:
    """A name for the class's own `version`, or for its source file where it has none, with the options."""
    settings = {"verifier": config.verifier, "options": config.options}
    version = getattr(judge, "version", None)
    if version is not None:
        if not isinstance(version, str) or not version:
            raise ValueError(f"{_name(type(judge))}.version is {version!r}; give a text that changes when its scores do")
        return fingerprint(settings={**settings, "version": version})
    source = getattr(sys.modules[type(judge).__module__], "__file__", None)
    if source is None:
        raise ValueError(f"{_name(type(judge))} comes from no file; give it a `version` that changes when its scores do")
    return fingerprint(Path(source), settings=settings)


def _is_number(value: Any) -> bool:
    """Whether it is a finite number that a float can hold; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _name(judge: type) -> str:
    return f"{judge.__module__}:{judge.__qualname__}"
