"""A judge behind the reward protocol (protocol.py): `unigrpo reward serve`, or a service of the user's own."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

from torch import Tensor

from configs.verifiers import HttpReward
from reward_server.protocol import SCORE_PATH, Answer, encode_request, read_answer
from reward_server.remote.calls import Call, Caller
from unigrpo.pictures import encode_png
from unigrpo.types import Prompt, Score, ScoreFailure

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Item:
    place: int
    prompt: Prompt
    png: bytes
    digest: bytes
    """Of all that the service is told about it."""


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
            png = encode_png(image)
            try:
                items.append(_Item(place, prompt, png, _digest(prompt, png)))
            except (TypeError, ValueError) as error:
                verdicts[place] = ScoreFailure(reason=f"the metadata of prompt {prompt.index} is not JSON: {error}")
        batches = [items[first : first + self._batch_size] for first in range(0, len(items), self._batch_size)]
        calls = [_call(batch) for batch in batches]
        answers = self._caller.ask(calls)
        for batch, answer in zip(batches, answers, strict=True):
            judged = [answer] * len(batch) if isinstance(answer, ScoreFailure) else self._noted(answer).verdicts
            for item, verdict in zip(batch, judged, strict=True):
                verdicts[item.place] = verdict
        return verdicts

    def close(self) -> None:
        """Ends the connections."""
        self._caller.close()

    def _noted(self, answer: Answer) -> Answer:
        if self._version not in (None, answer.version):
            log.warning("the reward service changed its version from %s to %s", self._version, answer.version)
        self._version, self._bounds = answer.version, answer.bounds
        return answer


def _digest(prompt: Prompt, png: bytes) -> bytes:
    """Raises TypeError or ValueError for metadata that is not JSON."""
    told = json.dumps([prompt.text, dict(prompt.metadata)], sort_keys=True, allow_nan=False).encode()
    return blake2b(len(told).to_bytes(8) + told + png, digest_size=32).digest()


def _call(batch: Sequence[_Item]) -> Call[Answer]:
    body, content_type = encode_request([item.prompt for item in batch], [item.png for item in batch])
    return Call(
        path=SCORE_PATH,
        body=body,
        content_type=content_type,
        read=partial(read_answer, num_items=len(batch)),
        idempotency_key=blake2b(b"".join(item.digest for item in batch), digest_size=32).hexdigest(),
    )
