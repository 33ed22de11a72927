"""The reward server: one verifier, and the rule that a failure is never a number.

A plain class; cluster/actors.py makes it a Ray actor and cluster/reward_service.py a deployment of Ray Serve. It asks its
verifier once a picture and not again for the same one: scores are remembered by content. It never retries: whoever calls asks
again for the items that failed, and starts a server anew whose verifier raised. What the caller did wrong (lists of unequal
length, something that is no picture) is raised; what goes wrong while judging is a ScoreFailure.
"""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from configs.verifiers import Judge
from reward_server.answers import trusted
from reward_server.content import content_hash, picture_digest
from reward_server.verifiers import VERIFIERS
from unigrpo.types import Prompt, Score, ScoreFailure

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """What one server was asked since it started. Example: Tally(asked=64, cached=0, failed=1, retried=2)."""

    asked: int = 0
    """Verdicts asked for; an item that is asked again counts again."""
    cached: int = 0
    """Of these, answered from memory."""
    failed: int = 0
    """Of these, answered with a ScoreFailure."""
    retried: int = 0
    """Calls to endpoints that the verifier repeated."""

    def __sub__(self, earlier: Self) -> "Tally":
        """What came since `earlier`."""
        return Tally(**{name: getattr(self, name) - getattr(earlier, name) for name in self.__slots__})


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What one server answered to one call."""

    verdicts: tuple[Score | ScoreFailure, ...]
    """One an item, in order."""
    asked: Tally
    """What this call added to the server's tally."""
    version: str
    """Of the verifier that judged."""
    broken: bool = False
    """The verifier raised: it may be broken for good, and is better started again."""


class RewardServer:
    """Judges pictures with the configured verifier."""

    def __init__(self, config: Judge) -> None:
        self._kind = config.kind
        self._call_size = config.call_size
        self._verifier = VERIFIERS[config.kind](config)
        self._remembered = Memory(config.cache_entries)
        self._asked = self._cached = self._failed = 0
        self.broken = False
        """Whether the verifier raised when it was last asked."""

    def score(self, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> list[Score | ScoreFailure]:
        """One verdict an item, in order: a score whose numbers are all finite, or a failure that quotes the reason.

        `images` are [H, W, 3] uint8 on the CPU, H and W free. Raises ValueError for lists of unequal length or another kind
        of image.
        """
        _require_pictures(prompts, images)
        version, self.broken = self._verifier.version, False
        keys = [content_key(version, prompt, image) for prompt, image in zip(prompts, images, strict=True)]
        verdicts: dict[str, Score | ScoreFailure] = {key: score for key in keys if (score := self._remembered.get(key))}
        fresh = {key: keys.index(key) for key in keys if key not in verdicts}
        verdicts |= self._ask_for(fresh, prompts, images)
        if self._verifier.version != version:
            reason = f"{self._kind} changed from version {version} to {self._verifier.version} while it was asked"
            verdicts |= {key: ScoreFailure(reason=reason) for key in verdicts.keys() - fresh.keys()}
        else:
            self._remembered.put(verdicts)
        self._asked += len(keys)
        self._cached += len(keys) - len(fresh)
        self._failed += sum(isinstance(verdicts[key], ScoreFailure) for key in keys)
        return [verdicts[key] for key in keys]

    def judge(self, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> Judgement:
        """`score`, with what the caller needs to know of it."""
        before = self.tally()
        verdicts = tuple(self.score(prompts, images))
        return Judgement(verdicts=verdicts, asked=self.tally() - before, version=self.version, broken=self.broken)

    def tally(self) -> Tally:
        """What was asked so far."""
        return Tally(asked=self._asked, cached=self._cached, failed=self._failed, retried=self._verifier.num_retries)

    @property
    def version(self) -> str:
        """The verifier's."""
        return self._verifier.version

    @property
    def bounds(self) -> tuple[float, float]:
        """The verifier's least and greatest score."""
        return self._verifier.bounds

    def _ask_for(
        self, places: Mapping[str, int], prompts: Sequence[Prompt], images: Sequence[Tensor]
    ) -> dict[str, Score | ScoreFailure]:
        """The verdict on the item at each of `places`, under its key."""
        items = list(places.items())
        size = self._call_size or max(1, len(items))
        verdicts = {}
        for first in range(0, len(items), size):
            batch = items[first : first + size]
            answers = self._ask([prompts[place] for _, place in batch], [images[place] for _, place in batch])
            keys, bounds = self._verifier.breakdown_keys, self._verifier.bounds
            for (key, _), answer in zip(batch, answers, strict=True):
                verdicts[key] = trusted(self._kind, answer, keys=keys, bounds=bounds)
        return verdicts

    def _ask(self, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> Sequence[object]:
        """The verifier's answers as they come; one failure an item when it breaks or answers another number of them."""
        try:
            answers = self._verifier.score(prompts, images)
        except BaseException as error:  # a verifier's sys.exit, too, ends its call and not the server
            if isinstance(error, KeyboardInterrupt):
                raise
            log.exception("verifier %s failed on %d pictures", self._kind, len(images))
            self.broken = True
            return [ScoreFailure(reason=f"{self._kind}: {type(error).__name__}: {error}")] * len(images)
        if not isinstance(answers, Sequence) or len(answers) != len(images):
            number = len(answers) if isinstance(answers, Sequence) else type(answers).__name__
            reason = f"{self._kind} answered {number} verdicts for {len(images)} pictures"
            log.error(reason)
            return [ScoreFailure(reason=reason)] * len(images)
        return answers


class Memory:
    """The scores met last, at most `entries` of them; failures are not remembered."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._scores: OrderedDict[str, Score] = OrderedDict()

    def get(self, key: str) -> Score | None:
        """The score remembered under `key`, which counts as met now."""
        if key in self._scores:
            self._scores.move_to_end(key)
        return self._scores.get(key)

    def put(self, verdicts: Mapping[str, Score | ScoreFailure]) -> None:
        """Remember scores, and forget those met longest ago."""
        for key, verdict in verdicts.items():
            if isinstance(verdict, Score):
                self._scores[key] = verdict
        while len(self._scores) > self._entries:
            self._scores.popitem(last=False)


def _require_pictures(prompts: Sequence[Prompt], images: Sequence[Tensor]) -> None:
    if len(prompts) != len(images):
        raise ValueError(f"got {len(prompts)} prompts and {len(images)} images; give one prompt an image")
    for image in images:
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.device.type != "cpu":
            raise ValueError(f"got an image {list(image.shape)} {image.dtype} on {image.device}; give [H, W, 3] uint8 on cpu")


def content_key(version: str, prompt: Prompt, image_HW3: Tensor) -> str:
    """What a verdict is remembered by: the verifier's version, the prompt with its metadata, the picture and its shape."""
    return f"{version} {content_hash(prompt, picture_digest(image_HW3).encode())}"
