"""A judge behind the reward protocol (protocol.py): `unigrpo reward serve`, or a service of the user's own."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import PIL
from PIL import features
from torch import Tensor

from configs.verifiers import HttpReward
from reward_server.content import picture_digest
from reward_server.protocol import SCORE_PATH, Answer, encode_request, read_answer
from reward_server.remote.calls import Call, Caller
from reward_server.remote.keys import idempotency_key
from reward_server.remote.quoting import quoted
from unigrpo.pictures import encode_png
from unigrpo.types import Prompt, Score, ScoreFailure

log = logging.getLogger(__name__)

_ENCODER = f"{PIL.__version__}, {features.version('zlib')}"
"""Part of every key: bytes of another encoder are other content to the service, which would refuse the key."""
_QUOTED = 80
"""Characters of a version that messages quote; a service may write what it likes there."""


@dataclass(frozen=True, slots=True)
class _Item:
    place: int
    prompt: Prompt
    image: Tensor
    key: str
    """Names all that the service is told about it."""


class HttpVerifier:
    """Passes pictures on and verdicts back; what a score means is the service's affair."""

    breakdown_keys: frozenset[str] = frozenset()

    def __init__(self, config: HttpReward) -> None:
        """Raises ValueError for an endpoint that is not allowed, and for a token or ca_file that cannot be used."""
        self._batch_size = config.batch_size
        self._caller = Caller(config.remote)
        self._version: str | None = None
        self._bounds = (-math.inf, math.inf)

    @property
    def version(self) -> str:
        """What the service said last; a name of its own until it has answered."""
        return "not answered yet" if self._version is None else self._version

    @property
    def bounds(self) -> tuple[float, float]:
        """What the service said last; infinite until it has answered. Each answer was held to its own bounds already."""
        return self._bounds

    @property
    def num_retries(self) -> int:
        return self._caller.num_retries

    @staticmethod
    def validate_metadata(config: HttpReward, metadata: Mapping[str, Any]) -> None:
        """Every prompt will do: only the service knows what it can judge."""

    def score(self, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> list[Score | ScoreFailure]:
        verdicts: list[Score | ScoreFailure] = [ScoreFailure(reason="not asked")] * len(prompts)
        items = []
        for place, (prompt, image) in enumerate(zip(prompts, images, strict=True)):
            try:
                items.append(_Item(place, prompt, image, _key(prompt, image)))
            except (TypeError, ValueError) as error:
                verdicts[place] = ScoreFailure(reason=f"prompt {prompt.index} cannot be sent: {error}")
        batches = [items[first : first + self._batch_size] for first in range(0, len(items), self._batch_size)]
        answers = self._of_one_version(self._caller.ask([_call(batch) for batch in batches]))
        for batch, answer in zip(batches, answers, strict=True):
            judged = [answer] * len(batch) if isinstance(answer, ScoreFailure) else answer.verdicts
            for item, verdict in zip(batch, judged, strict=True):
                verdicts[item.place] = verdict
        return verdicts

    def close(self) -> None:
        """Ends the connections."""
        self._caller.close()

    def _of_one_version(self, answers: list[Answer | ScoreFailure]) -> list[Answer | ScoreFailure]:
        """The answers, each a failure where they come from several versions: siblings are compared, so one scale judges all."""
        given = [answer for answer in answers if isinstance(answer, Answer)]
        versions = sorted({answer.version for answer in given})
        if len(versions) > 1:
            shown = " and ".join(map(_shown, versions))
            mixed = ScoreFailure(reason=f"the endpoints answered as versions {shown}; give endpoints of one build and settings")
            return [mixed if isinstance(answer, Answer) else answer for answer in answers]
        for answer in given[:1]:
            if self._version is not None and self._version != answer.version:
                changed = _shown(self._version), _shown(answer.version)
                log.warning("the reward service changed its version from %s to %s", *changed)
            self._version, self._bounds = answer.version, answer.bounds
        return answers


def _key(prompt: Prompt, image: Tensor) -> str:
    """Raises TypeError or ValueError for metadata that is not JSON, and a picture without pixels."""
    if not image.numel():
        raise ValueError(f"its picture {list(image.shape)} has no pixels")
    return idempotency_key(_ENCODER, prompt.text, dict(prompt.metadata), picture_digest(image))


def _call(batch: Sequence[_Item]) -> Call[Answer]:
    return Call(
        path=SCORE_PATH,
        body=partial(_body, batch),
        read=partial(read_answer, num_items=len(batch)),
        idempotency_key=idempotency_key(*(item.key for item in batch)),
    )


def _body(batch: Sequence[_Item]) -> tuple[bytes, str]:
    return encode_request([item.prompt for item in batch], [encode_png(item.image) for item in batch])


def _shown(version: str) -> str:
    return quoted(version, limit=_QUOTED)
