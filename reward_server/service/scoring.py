"""From items to verdicts: every verifier asked through its ledger, the answers combined, and checked once more."""

import asyncio
import json
from collections.abc import Awaitable, Mapping, Sequence
from hashlib import blake2b

from configs.reward import CombinedReward, Reward, parts_of
from reward_server.answers import trusted
from reward_server.combine import combine_verdicts
from reward_server.content import content_hash
from reward_server.protocol import Answer
from reward_server.service.judges import Description, EncodedItem, Judge, Unavailable, Verdict
from reward_server.service.ledger import IdempotencyKeys, Ledger
from reward_server.service.refusal import Refused
from unigrpo.types import ScoreFailure

DESCRIBE_TIMEOUT = 10.0
"""Seconds for a verifier to say what it is."""


class Scoring:
    """Judges requests with the verifiers of a reward."""

    def __init__(self, reward: Reward, judges: Mapping[str, Judge]) -> None:
        """judges: one for each of `parts_of(reward)`, by its name."""
        parts = parts_of(reward)
        assert judges.keys() == parts.keys(), "one judge a part"
        self._reward, self._judges = reward, judges
        self.ledgers = {name: Ledger(part.cache_entries) for name, part in parts.items()}
        self._keys = IdempotencyKeys()

    async def is_ready(self) -> bool:
        """Whether every verifier has a replica that can judge now."""
        try:
            async with asyncio.timeout(DESCRIBE_TIMEOUT):
                return all(await asyncio.gather(*(judge.is_ready() for judge in self._judges.values())))
        except TimeoutError:
            return False

    async def describe(self) -> Description:
        """Version and bounds of the whole reward. Raises Unavailable while one of its verifiers does not answer."""
        return whole(self._reward, await self._describe_parts())

    async def score(self, items: Sequence[EncodedItem], idempotency_key: str | None, deadline: float) -> Answer:
        """One verdict an item, in order; what has none by `deadline` (of the event loop's clock) is an outage.

        Raises Refused: 422 for an idempotency key of other content, 503 when a verifier can take no work.
        """
        hashes = await asyncio.to_thread(lambda: [content_hash(item.prompt, item.image) for item in items])
        if idempotency_key is not None:
            self._keys.claim(idempotency_key, blake2b("".join(hashes).encode(), digest_size=16).hexdigest())
        try:
            parts = await self._describe_parts()
            asked = [self._ask(name, parts[name], hashes, items, deadline) for name in self._judges]
            verdicts = dict(zip(self._judges, await _all_ended(asked), strict=True))
        except Unavailable:
            raise Refused(503, "no judge can take the request now; come back later") from None
        described = whole(self._reward, parts)
        combined = [
            combine_verdicts(self._reward, {name: each[place] for name, each in verdicts.items()})
            for place in range(len(items))
        ]
        return Answer(version=described.version, bounds=described.bounds, verdicts=combined)

    async def _describe_parts(self) -> dict[str, Description]:
        try:
            async with asyncio.timeout(DESCRIBE_TIMEOUT):
                return {name: await judge.describe() for name, judge in self._judges.items()}
        except TimeoutError:
            raise Unavailable(f"a verifier did not say what it is in {DESCRIBE_TIMEOUT:g} s") from None

    async def _ask(
        self, name: str, described: Description, hashes: Sequence[str], items: Sequence[EncodedItem], deadline: float
    ) -> list[Verdict]:
        async def ask(new: Sequence[EncodedItem]) -> Sequence[Verdict]:
            answers = await self._judges[name].judge(new)
            if len(answers) != len(new):
                return [ScoreFailure(reason=f"{name} answered {len(answers)} verdicts for {len(new)} pictures")] * len(new)
            return [trusted(name, answer, keys=(), bounds=described.bounds) for answer in answers]  # a judge may run anywhere

        keys = [f"{described.version} {content}" for content in hashes]
        return await self.ledgers[name].verdicts(keys, items, ask, deadline)


def whole(reward: Reward, parts: Mapping[str, Description]) -> Description:
    """Version and bounds of a reward from those of its verifiers; weighted scores lie between the weighted bounds."""
    if not isinstance(reward, CombinedReward):
        [described] = parts.values()
        return described
    told = {name: [parts[name].version, reward.weights[name]] for name in sorted(parts)}
    version = blake2b(json.dumps(told).encode(), digest_size=8).hexdigest()
    ends = [sorted(weight * bound for bound in parts[name].bounds) for name, weight in reward.weights.items()]
    return Description(version=version, bounds=(sum(low for low, _ in ends), sum(high for _, high in ends)))


async def _all_ended(asked: Sequence[Awaitable[list[Verdict]]]) -> list[list[Verdict]]:
    """The results once all have ended, so that no task is left alone; the first exception, if any, is raised."""
    ended = await asyncio.gather(*asked, return_exceptions=True)
    if errors := [each for each in ended if isinstance(each, BaseException)]:
        raise errors[0]
    return [each for each in ended if not isinstance(each, BaseException)]
