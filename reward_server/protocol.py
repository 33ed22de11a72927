"""The reward protocol on the wire, for the client and for the service alike; docs/reward_protocol.md says it in plain words.

`POST /v1/score` carries multipart/form-data: one part `request` (application/json, a ScoreRequest), then one part `image`
(image/png or image/webp, its raw bytes) an item, in order. The answer is a ScoreAnswer, one result an item in order; an error
is an ErrorAnswer. Nothing is base64, nothing is pickled, nothing is a URL.
"""

import json
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from reward_server.strict_json import parse_json
from unigrpo.types import Prompt, Score, ScoreFailure

PROTOCOL: Literal["unigrpo-reward/1"] = "unigrpo-reward/1"
SCORE_PATH = "/v1/score"
"""Appended to a service's base URL."""
IMAGE_TYPES = ("image/png", "image/webp")
MAX_KEY = 128
"""Longest Idempotency-Key."""
MAX_REASON = 2000
"""Characters of a failure that are sent."""
QUOTED = 300
"""Characters of a wrong answer that an error quotes."""

M = TypeVar("M", bound="Message")
Bounds = Annotated[list[float | None], Field(min_length=2, max_length=2)]


class Message(BaseModel):
    """What is sent: no unknown keys, no coercion (a bool is no number), no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


class RequestItem(Message):
    """What one picture was painted for. Example: {"prompt": "three red circles", "metadata": {"tag": "counting", ...}}."""

    prompt: str
    """What the user asked for."""
    metadata: dict[str, JsonValue] = {}
    """What the verifier reads beside it, such as GenEval's tag and include."""


class ScoreRequest(Message):
    """The part `request`."""

    protocol: Literal["unigrpo-reward/1"]
    """Another version is refused."""
    items: list[RequestItem] = Field(min_length=1)
    """One a picture, in the order of the parts `image`."""


class ScoreResult(Message):
    """A verdict."""

    value: float
    """Finite and within the answer's bounds."""
    breakdown: dict[str, float | str]
    """Partial scores and reasons."""


class FailureResult(Message):
    """No verdict; never to be taken as a number."""

    failure: str
    """What went wrong."""
    outage: bool
    """True when no judge could be had and asking again later is worth it, False when a judge answered something wrong."""


class ScoreAnswer(Message):
    """The body of status 200."""

    protocol: Literal["unigrpo-reward/1"]
    version: str = Field(min_length=1)
    """Of the verifier: the same version scores the same picture alike."""
    bounds: Bounds
    """Least and greatest value of a score; null where there is none."""
    results: list[ScoreResult | FailureResult]
    """One an item, in order."""


class ErrorAnswer(Message):
    """The body of every other status."""

    error: str


class Info(Message):
    """The body of `GET /v1/info`."""

    protocol: Literal["unigrpo-reward/1"]
    kind: str
    """Of the reward, such as geneval or combined."""
    version: str
    """As in ScoreAnswer."""
    bounds: Bounds
    """As in ScoreAnswer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a service said. Example: Answer(version="1", bounds=(0.0, 1.0), verdicts=[Score(value=0.75, breakdown={...})])."""

    version: str
    """Of the verifier that judged."""
    bounds: tuple[float, float]
    """Least and greatest value of a score, infinite where there is none."""
    verdicts: list[Score | ScoreFailure]
    """One an item, in order."""


def encode_request(prompts: Sequence[Prompt], images_png: Sequence[bytes]) -> tuple[bytes, str]:
    """Body and Content-Type of a request, one PNG picture a prompt. Raises ValueError for none, unequal numbers, or metadata
    that is not JSON.
    """
    if not prompts or len(prompts) != len(images_png):
        raise ValueError(f"got {len(prompts)} prompts and {len(images_png)} pictures; give one prompt a picture, at least one")
    items = [{"prompt": prompt.text, "metadata": dict(prompt.metadata)} for prompt in prompts]
    try:
        request = json.dumps({"protocol": PROTOCOL, "items": items}, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"the metadata of a prompt is not JSON: {error}") from None
    boundary = secrets.token_hex(16)
    parts = [_part(boundary, "request", "application/json", request)]
    parts += [_part(boundary, "image", "image/png", image) for image in images_png]
    return b"".join([*parts, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


def read_request(content: bytes) -> ScoreRequest:
    """The part `request`. Raises ValueError, quoting what is wrong."""
    value = parse_json(content)
    _require_protocol(value)
    return _validated(ScoreRequest, value)


def write_answer(version: str, bounds: tuple[float, float], verdicts: Sequence[Score | ScoreFailure]) -> bytes:
    """The body of status 200. Raises ValueError for a number that is not finite."""
    answer = {
        "protocol": PROTOCOL,
        "version": version,
        "bounds": on_wire(bounds),
        "results": [_result(verdict) for verdict in verdicts],
    }
    return json.dumps(answer, allow_nan=False).encode()


def read_answer(content: bytes, num_items: int) -> Answer:
    """What a service of status 200 said about `num_items` pictures.

    Raises ValueError, quoting the answer, for anything but a ScoreAnswer with one result an item and every value within its
    bounds: NaN, unknown, missing or repeated keys, bools for numbers, another protocol.
    """
    try:
        value = parse_json(content)
        _require_protocol(value)
        answer = _validated(ScoreAnswer, value)
        low, high = _bounds(answer.bounds)
        if len(answer.results) != num_items:
            raise ValueError(f"{len(answer.results)} results for {num_items} pictures")
        for result in answer.results:
            if isinstance(result, ScoreResult) and not low <= result.value <= high:
                raise ValueError(f"the value {result.value} is outside its bounds {low} to {high}")
    except ValueError as error:
        raise ValueError(f"the reward service answered wrongly: {error}; it answered {_quoted(content)}") from None
    return Answer(version=answer.version, bounds=(low, high), verdicts=[_verdict(result) for result in answer.results])


def on_wire(bounds: tuple[float, float]) -> list[float | None]:
    """Bounds as they are sent: null for an infinite one."""
    return [bound if math.isfinite(bound) else None for bound in bounds]


def _part(boundary: str, name: str, content_type: str, content: bytes) -> bytes:
    filename = '; filename="image"' if name == "image" else ""
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{filename}\r\nContent-Type: {content_type}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def _require_protocol(value: Any) -> None:
    """Before all else, since another version may have other keys."""
    given = value.get("protocol") if isinstance(value, dict) else None
    if isinstance(given, str) and given != PROTOCOL:
        raise ValueError(f"the protocol is {given[:80]!r}; spoken here is {PROTOCOL!r}")


def _validated(model: type[M], value: Any) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'the JSON'}: {fault['msg']}" for fault in error.errors()]
        raise ValueError("; ".join(faults[:3])) from None


def _bounds(bounds: Sequence[float | None]) -> tuple[float, float]:
    low, high = (-math.inf if bounds[0] is None else bounds[0]), (math.inf if bounds[1] is None else bounds[1])
    if low > high:
        raise ValueError(f"the bounds {low} to {high} hold nothing")
    return low, high


def _result(verdict: Score | ScoreFailure) -> dict[str, Any]:
    if isinstance(verdict, Score):
        return {"value": verdict.value, "breakdown": {key: _whole(part) for key, part in verdict.breakdown.items()}}
    return {"failure": _whole(verdict.reason[:MAX_REASON]), "outage": verdict.outage}


def _whole(part: float | str) -> float | str:
    """Text that every JSON reader takes: half a surrogate pair becomes a question mark."""
    return part.encode("utf-8", errors="replace").decode("utf-8") if isinstance(part, str) else part


def _verdict(result: ScoreResult | FailureResult) -> Score | ScoreFailure:
    if isinstance(result, ScoreResult):
        return Score(value=result.value, breakdown=result.breakdown)
    return ScoreFailure(reason=result.failure, outage=result.outage)


def _quoted(content: bytes) -> str:
    text = content[:QUOTED].decode("utf-8", errors="replace")
    return repr(text) + (" ..." if len(content) > QUOTED else "")
