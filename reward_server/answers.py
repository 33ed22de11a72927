"""What a verifier answered, held to what a score is. Nothing is taken over as it came: verifiers may be anybody's code."""

import logging
import math
from collections.abc import Collection, Mapping

from unigrpo.types import Score, ScoreFailure

log = logging.getLogger(__name__)

LARGEST = 1e30
"""Greatest number that a score or a part of its breakdown may hold: sums and squares of such numbers stay finite."""
MAX_PARTS = 256
"""Entries of a breakdown: each becomes a metric."""
MAX_TEXT = 2000
"""Characters of a reason or of a text in a breakdown that are kept."""
QUOTED = 500
"""Characters of a wrong answer that its failure quotes."""


class NoScoreError(ValueError):
    """Why an answer is no score."""


def checked(answer: object, *, keys: Collection[str], bounds: tuple[float, float]) -> Score | ScoreFailure:
    """The score, rebuilt from plain values, or a failure that quotes the answer.

    keys: what a breakdown must hold. bounds: least and greatest value. Longer texts than MAX_TEXT are cut.
    """
    try:
        if isinstance(answer, ScoreFailure):
            return _failure(answer)
        return _score(answer, keys, bounds)
    except NoScoreError as error:
        return ScoreFailure(reason=f"answered {error}: {_quoted(answer)}")
    except Exception as error:  # whatever a foreign object does when it is looked at
        return ScoreFailure(reason=f"answered something that raises {type(error).__name__} when it is read")


def trusted(name: str, answer: object, *, keys: Collection[str], bounds: tuple[float, float]) -> Score | ScoreFailure:
    """`checked`; where the answer was wrong, the failure starts with the `name` of who gave it, and stands in the log."""
    verdict = checked(answer, keys=keys, bounds=bounds)
    if isinstance(verdict, Score) or isinstance(answer, ScoreFailure):
        return verdict
    log.error("%s %s", name, verdict.reason)
    return ScoreFailure(reason=f"{name} {verdict.reason}")


def _failure(answer: ScoreFailure) -> ScoreFailure:
    if not isinstance(answer.reason, str) or not isinstance(answer.outage, bool):
        raise NoScoreError("a failure without a text as its reason, or whose outage is not true or false")
    return ScoreFailure(reason=_text(answer.reason), outage=answer.outage)


def _score(answer: object, keys: Collection[str], bounds: tuple[float, float]) -> Score:
    if not isinstance(answer, Score):
        raise NoScoreError("no score")
    if not isinstance(answer.breakdown, Mapping):
        raise NoScoreError("a breakdown that is no mapping")
    value, parts = _number(answer.value), dict(answer.breakdown)
    if missing := sorted({*keys} - parts.keys()):
        raise NoScoreError(f"without {missing}")
    if len(parts) > MAX_PARTS or not all(isinstance(name, str) for name in parts):
        raise NoScoreError(f"more than {MAX_PARTS} parts, or one whose name is no text")
    least, most = bounds
    if not least <= value <= most:
        raise NoScoreError(f"{value}, which is not between {least} and {most}")
    breakdown = {_text(name): _text(part) if isinstance(part, str) else _number(part) for name, part in parts.items()}
    return Score(value=value, breakdown=breakdown)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NoScoreError("something that is not a finite number")
    try:
        plain = float.__float__(value) if isinstance(value, float) else int.__float__(value)
    except OverflowError:
        plain = math.inf
    if not abs(plain) <= LARGEST:
        raise NoScoreError(f"something that is not a finite number of at most {LARGEST:g}")
    return plain


def _text(text: str) -> str:
    plain = str.__str__(text)
    return plain if len(plain) <= MAX_TEXT else plain[:MAX_TEXT] + "…"


def _quoted(answer: object) -> str:
    try:
        return repr(answer)[:QUOTED]
    except Exception as error:
        return f"its representation raises {type(error).__name__}"
