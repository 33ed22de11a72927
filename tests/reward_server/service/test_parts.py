"""The pieces under the application, each alone: ledger, idempotency keys, batches, admission, the replica, bounds."""

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from configs.reward import CombinedReward
from configs.reward_service import Limits
from configs.verifiers import GenevalReward, RandomReward
from reward_server.server import RewardServer
from reward_server.service.admission import Admission
from reward_server.service.batching import Batched
from reward_server.service.judges import Description, EncodedItem, Unavailable, Verdict
from reward_server.service.ledger import BROKEN, LATE, IdempotencyKeys, Ledger
from reward_server.service.refusal import Refused
from reward_server.service.replica import JudgeReplica
from reward_server.service.scoring import whole
from tests.reward_server.service.fakes import BLACK, GOOD, PROMPTS, FakeJudge, drawn
from unigrpo.types import Prompt, Score, ScoreFailure

NEVER = math.inf
"""A deadline."""


def item(text: str, image: bytes = BLACK, **metadata: Any) -> EncodedItem:
    return EncodedItem(prompt=Prompt(index=0, text=text, metadata=metadata), image=image, pixels=24 * 24)


def told(verdicts: dict[str, Verdict], asked: list[str]) -> Callable[[Sequence[EncodedItem]], Awaitable[list[Verdict]]]:
    """A judge that answers by prompt, and says what it was asked."""

    async def ask(items: Sequence[EncodedItem]) -> list[Verdict]:
        asked.extend(each.prompt.text for each in items)
        await asyncio.sleep(0)
        return [verdicts[each.prompt.text] for each in items]

    return ask


def test_equal_items_are_judged_once_at_once_and_later() -> None:
    ledger, asked = Ledger(10), list[str]()
    verdicts: dict[str, Verdict] = {"a": GOOD, "b": Score(value=1.0, breakdown={})}
    ask = told(verdicts, asked)

    async def run() -> None:
        items = [item("a"), item("b"), item("a")]
        keys = [each.prompt.text for each in items]
        both = await asyncio.gather(
            ledger.verdicts(keys, items, ask, NEVER), ledger.verdicts(keys[::-1], items[::-1], ask, NEVER)
        )
        assert both[0] == [verdicts[key] for key in keys]
        assert both[1] == both[0][::-1]
        assert await ledger.verdicts(["b"], [item("b")], ask, NEVER) == [verdicts["b"]]

    asyncio.run(run())
    assert sorted(asked) == ["a", "b"]
    counts = ledger.counts
    assert (counts.judged, counts.shared, counts.cached, counts.failed) == (2, 4, 1, 0)


def test_failures_are_judged_again_and_the_oldest_scores_are_forgotten() -> None:
    ledger, asked = Ledger(1), list[str]()
    ask = told({"a": GOOD, "b": GOOD, "f": ScoreFailure(reason="no")}, asked)

    async def run() -> None:
        for key in "ffabba":
            await ledger.verdicts([key], [item(key)], ask, NEVER)

    asyncio.run(run())
    assert "".join(asked) == "ffaba"
    assert ledger.counts.failed == 2


def test_who_shares_a_call_that_breaks_is_told_so() -> None:
    ledger = Ledger(10)

    async def broken(_: Sequence[EncodedItem]) -> list[Verdict]:
        await asyncio.sleep(0.05)
        raise Unavailable("gone")

    async def run() -> None:
        first = asyncio.create_task(ledger.verdicts(["a"], [item("a")], broken, NEVER))
        await asyncio.sleep(0)
        assert await ledger.verdicts(["a"], [item("a")], told({}, []), NEVER) == [BROKEN]
        with pytest.raises(Unavailable):
            await first
        assert await ledger.verdicts(["a"], [item("a")], told({"a": GOOD}, []), NEVER) == [GOOD]

    asyncio.run(run())


def test_a_verdict_outlives_whoever_asked_for_it() -> None:
    ledger, asked, gate = Ledger(10), list[str](), asyncio.Event()

    async def slow(items: Sequence[EncodedItem]) -> list[Verdict]:
        asked.extend(each.prompt.text for each in items)
        await gate.wait()
        return [GOOD] * len(items)

    async def run() -> None:
        def soon() -> float:
            return asyncio.get_running_loop().time() + 0.02

        gone = asyncio.create_task(ledger.verdicts(["b"], [item("b")], slow, NEVER))
        assert await ledger.verdicts(["a"], [item("a")], slow, soon()) == [LATE]
        assert await ledger.verdicts(["a", "b"], [item("a"), item("b")], slow, soon()) == [LATE] * 2
        gone.cancel()
        sharing = asyncio.create_task(ledger.verdicts(["a", "b"], [item("a"), item("b")], slow, NEVER))
        await asyncio.sleep(0)
        gate.set()
        assert await sharing == [GOOD] * 2
        assert await ledger.verdicts(["b", "a"], [item("b"), item("a")], slow, soon()) == [GOOD] * 2

    asyncio.run(asyncio.wait_for(run(), 5))
    assert sorted(asked) == ["a", "b"]
    assert (ledger.counts.judged, ledger.counts.shared, ledger.counts.cached) == (2, 4, 2)


def test_a_key_stands_for_one_content() -> None:
    keys = IdempotencyKeys()
    keys.claim("k", "x")
    keys.claim("k", "x")
    keys.claim("other", "y")
    with pytest.raises(Refused, match="came before with other content") as caught:
        keys.claim("k", "y")
    assert caught.value.status == 422


def test_batches_form_of_what_waits_across_requests() -> None:
    sizes: list[int] = []

    def answer(items: Sequence[EncodedItem]) -> list[Verdict]:
        sizes.append(len(items))
        return [Score(value=len(each.image) / 1e6, breakdown={}) for each in items]

    judge = FakeJudge(answer, seconds=0.05)
    batched = Batched(judge, batch_size=4, max_calls=1, patience=5, timeout=5)

    async def run() -> list[list[Verdict]]:
        return await asyncio.gather(*(batched.judge([item("", bytes(number))] * 2) for number in range(5)))

    answers = asyncio.run(run())
    assert answers == [[Score(value=number / 1e6, breakdown={})] * 2 for number in range(5)]
    assert sizes == [2, 4, 4]


def test_as_many_calls_are_out_as_may_be() -> None:
    judge = FakeJudge(gate=threading.Event())
    batched = Batched(judge, batch_size=1, max_calls=3, patience=5, timeout=5)

    async def run() -> None:
        waiting = asyncio.gather(*(batched.judge([item("")]) for _ in range(8)))
        await asyncio.sleep(0.05)
        assert len(judge.asked) == 3
        assert judge.gate is not None
        judge.gate.set()
        assert await waiting == [[GOOD]] * 8

    asyncio.run(run())


@pytest.mark.parametrize(("waiting", "sizes"), [(24, [2] * 8 + [1] * 8), (16, [1] * 16), (5, [1] * 5), (70, [4] * 16 + [4, 2])])
def test_calls_that_are_free_share_what_waits(waiting: int, sizes: list[int]) -> None:
    taken: list[int] = []

    def answer(items: Sequence[EncodedItem]) -> list[Verdict]:
        taken.append(len(items))
        return [GOOD] * len(items)

    batched = Batched(FakeJudge(answer, seconds=0.01), batch_size=4, max_calls=16, patience=5, timeout=5)
    assert asyncio.run(batched.judge([item("")] * waiting)) == [GOOD] * waiting
    assert taken == sizes


@pytest.mark.parametrize(
    ("sides", "sizes"), [([4096] * 3, [1] * 3), ([2048] * 6, [4, 2]), ([5000, 24, 24], [1, 2]), ([24, 5000, 24], [1, 1, 1])]
)
def test_a_call_holds_so_many_pixels(sides: list[int], sizes: list[int]) -> None:
    taken: list[int] = []

    def answer(items: Sequence[EncodedItem]) -> list[Verdict]:
        taken.append(len(items))
        return [GOOD] * len(items)

    batched = Batched(FakeJudge(answer), batch_size=32, max_calls=1, patience=5, timeout=5)
    items = [EncodedItem(prompt=PROMPTS[0], image=b"", pixels=side * side) for side in sides]
    assert asyncio.run(batched.judge(items)) == [GOOD] * len(sides)
    assert taken == sizes


def test_what_no_call_takes_up_in_time_is_an_outage_and_is_not_kept() -> None:
    judge = FakeJudge(seconds=0.2)
    batched = Batched(judge, batch_size=1, max_calls=1, patience=0.05, timeout=5)
    late = ScoreFailure(reason="no judge was free in 0.05 s", outage=True)

    async def run() -> None:
        first, second = (asyncio.create_task(batched.judge([item(text)])) for text in ("first", "second"))
        assert await second == [late]
        assert not batched._waiting
        assert not first.done()
        assert await first == [GOOD]

    asyncio.run(run())
    assert [each.prompt.text for each in judge.asked] == ["first"]


def test_what_nobody_waits_for_any_more_is_not_judged() -> None:
    judge = FakeJudge(seconds=0.05)
    batched = Batched(judge, batch_size=1, max_calls=1, patience=5, timeout=5)

    async def run() -> None:
        first, gone, third = (asyncio.create_task(batched.judge([item(text)])) for text in ("first", "gone", "third"))
        await asyncio.sleep(0.01)
        gone.cancel()
        assert await first == await third == [GOOD]

    asyncio.run(run())
    assert [each.prompt.text for each in judge.asked] == ["first", "third"]


def test_a_call_that_breaks_hangs_or_miscounts_fails_its_batch_and_no_other() -> None:
    judge = FakeJudge()
    batched = Batched(judge, batch_size=2, max_calls=1, patience=5, timeout=0.05)

    async def run() -> None:
        judge.answer = lambda items: [GOOD]
        [one, two] = await batched.judge([item("")] * 2)
        assert one == two == ScoreFailure(reason="the judge answered 1 verdicts for 2 pictures")
        judge.seconds = 1.0
        assert await batched.judge([item("")]) == [ScoreFailure(reason="no verdict came in 0.05 s", outage=True)]
        judge.seconds, judge.answer = 0.0, lambda items: [][1]
        with pytest.raises(IndexError):
            await batched.judge([item("")] * 2)
        judge.answer = lambda items: [GOOD] * len(items)
        assert await batched.judge([item("")]) == [GOOD]

    asyncio.run(run())


def test_requests_and_bytes_have_room_or_wait_or_are_sent_away() -> None:
    order: list[str] = []

    async def inside(admission: Admission, name: str, num_bytes: int, seconds: float, patience: float = 5) -> None:
        deadline = asyncio.get_running_loop().time() + patience
        async with admission.admitted(num_bytes, deadline):
            order.append(name)
            await asyncio.sleep(seconds)

    async def run() -> None:
        admission = Admission(num_requests=3, num_bytes=100)
        first = asyncio.create_task(inside(admission, "first", 60, 0.1))
        await asyncio.sleep(0)
        large = asyncio.create_task(inside(admission, "large", 90, 0))
        small = asyncio.create_task(inside(admission, "small", 10, 0))
        await asyncio.sleep(0.01)
        assert order == ["first"]  # small could go ahead of large, and would starve it
        with pytest.raises(Refused, match="too many"):
            await inside(admission, "fourth", 1, 0)
        await asyncio.gather(first, large, small)
        assert order == ["first", "large", "small"]
        full = asyncio.create_task(inside(admission, "full", 100, 0.1))
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="no room"):
            await inside(admission, "impatient", 1, 0, patience=0.01)
        await full
        await inside(admission, "again", 100, 0)
        with pytest.raises(ZeroDivisionError):
            async with admission.admitted(100, asyncio.get_running_loop().time() + 1):
                raise ZeroDivisionError
        await inside(admission, "last", 100, 0)

    asyncio.run(run())


def test_a_replica_decodes_judges_and_keeps_undecodable_pictures_apart() -> None:
    replica = JudgeReplica(GenevalReward(detector="shapes"), Limits())
    items = [EncodedItem(prompt=prompt, image=drawn(prompt), pixels=24 * 24) for prompt in PROMPTS[:5]]
    items[1] = EncodedItem(prompt=PROMPTS[1], image=drawn(PROMPTS[1])[:-30], pixels=24 * 24)
    verdicts = asyncio.run(replica.judge(items))
    assert isinstance(verdicts[1], ScoreFailure)
    assert not verdicts[1].outage
    assert "the picture cannot be decoded" in verdicts[1].reason
    assert asyncio.run(replica.judge([items[1]])) == [verdicts[1]]
    assert [verdict.value for verdict in verdicts if isinstance(verdict, Score)] == [1.0] * 4


def test_a_replica_says_what_judged() -> None:
    replica = JudgeReplica(RandomReward(), Limits())
    described, [score] = asyncio.run(replica.judge_described([item("")]))
    assert (
        described == asyncio.run(replica.describe()) == Description(version=RewardServer(RandomReward()).version, bounds=(0, 1))
    )
    assert isinstance(score, Score)


def test_a_verifier_that_hangs_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = JudgeReplica(RandomReward(judge_timeout=0.05), Limits())
    gate = threading.Event()
    monkeypatch.setattr(replica._server, "score", lambda prompts, images: [GOOD] if gate.wait(5) else [])

    async def run() -> None:
        replica.check_health()
        asked = asyncio.create_task(replica.judge([item("")]))
        await asyncio.sleep(0.2)
        with pytest.raises(RuntimeError, match=r"not answered for 0\.05 s"):
            replica.check_health()
        gate.set()
        assert await asked == [GOOD]
        replica.check_health()

    asyncio.run(run())


def test_a_verifier_that_raises_again_and_again_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = JudgeReplica(RandomReward(), Limits())
    sane, undecodable = replica._server._verifier.score, item("", BLACK[:-30])

    def broken(prompts: object, images: object) -> Any:
        raise MemoryError

    def ask(score: Any, asked: EncodedItem) -> None:
        monkeypatch.setattr(replica._server._verifier, "score", score)
        asyncio.run(replica.judge([asked]))
        replica.check_health()

    for score in (broken, broken, sane, broken, broken):
        ask(score, item(""))
    ask(sane, undecodable)  # nothing for the verifier
    with pytest.raises(RuntimeError, match="raised in 3 calls in a row"):
        ask(broken, item(""))


def test_what_callers_send_wrongly_leaves_a_replica_healthy() -> None:
    replica = JudgeReplica(GenevalReward(detector="shapes"), Limits())
    for _ in range(4):
        for verdict in asyncio.run(replica.judge([item("a"), item("b")])):
            assert isinstance(verdict, ScoreFailure)
            assert "metadata lacks" in verdict.reason
        assert replica._server.broken
        replica.check_health()


@pytest.mark.parametrize(
    ("weights", "bounds", "expected"),
    [
        ({"a": 1.0, "b": 2.0}, {"a": (0, 1), "b": (-1, 3)}, (-2.0, 7.0)),
        ({"a": 1.0, "b": -2.0}, {"a": (0, 1), "b": (-1, 3)}, (-6.0, 3.0)),
        ({"a": -2.0, "b": 1.0}, {"a": (float("-inf"), 3), "b": (0, 1)}, (-6.0, float("inf"))),
    ],
)
def test_bounds_of_weighted_scores(
    weights: dict[str, float], bounds: dict[str, tuple[float, float]], expected: tuple[float, float]
) -> None:
    reward = CombinedReward(parts={"a": RandomReward(), "b": RandomReward()}, weights=weights)
    parts = {name: Description(version="1", bounds=each) for name, each in bounds.items()}
    assert whole(reward, parts).bounds == expected


def test_parts_and_weights_name_the_version_of_a_combination() -> None:
    def version(weights: dict[str, float], *versions: str) -> str:
        reward = CombinedReward(parts={"a": RandomReward(), "b": RandomReward()}, weights=weights)
        return whole(
            reward, {name: Description(version=each, bounds=(0, 1)) for name, each in zip("ab", versions, strict=True)}
        ).version

    told = [version({"a": 1, "b": 2}, "1", "1"), version({"a": 2, "b": 2}, "1", "1"), version({"a": 1, "b": 2}, "1", "2")]
    assert len(set(told)) == 3
    assert version({"b": 2, "a": 1}, "1", "1") == told[0]
