import asyncio
from collections.abc import Sequence

import pytest
from yarl import URL

from reward_server.remote.breaker import Breaker
from reward_server.remote.endpoints import Endpoint, NoneLeft, Pool, Slot


def endpoint(name: str = "one", failures: int = 1) -> Endpoint:
    return Endpoint(URL(f"https://{name}.test"), Breaker(failures=failures, cooldown=60.0))


def far() -> float:
    return asyncio.get_running_loop().time() + 1000.0


async def held(pool: Pool, taken: list[str], done: asyncio.Event, avoid: Sequence[Endpoint] = ()) -> None:
    async with pool.slot(avoid=avoid, until=far()) as slot:
        taken.append(slot.endpoint.name)
        await done.wait()


def test_slots_go_to_the_least_busy_endpoint_and_no_further() -> None:
    async def scenario() -> None:
        one, two = endpoint("one"), endpoint("two")
        pool, taken, done = Pool([one, two], concurrency=2), list[str](), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(held(pool, taken, done))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert taken == ["one.test:443", "two.test:443"] * 2
            done.set()
        assert len(taken) == 5
        assert one.in_flight == two.in_flight == 0

    asyncio.run(scenario())


def test_an_avoided_endpoint_is_taken_only_while_no_other_is_up() -> None:
    async def scenario() -> None:
        one, two = endpoint("one"), endpoint("two")
        pool, taken, done = Pool([one, two], concurrency=1), list[str](), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(held(pool, taken, done, avoid=[one]))
            group.create_task(held(pool, taken, done, avoid=[one]))
            for _ in range(4):
                await asyncio.sleep(0)
            assert taken == ["two.test:443"]  # the second one waits for it rather than take the first
            done.set()
        assert taken == ["two.test:443"] * 2
        two.breaker.failed(asyncio.get_running_loop().time(), trial=False, pause=0.0)
        await held(pool, taken, done, avoid=[one])
        assert taken[-1] == "one.test:443"

    asyncio.run(scenario())


def test_of_avoided_endpoints_the_first_one_is_taken() -> None:
    async def scenario() -> None:
        one, two, done = endpoint("one"), endpoint("two"), asyncio.Event()
        pool, taken = Pool([one, two], concurrency=1), list[str]()
        done.set()
        for avoid in ([one, two], [two, one], [two, one, two]):
            await held(pool, taken, done, avoid=avoid)
        assert taken == ["one.test:443", "two.test:443", "one.test:443"]

    asyncio.run(scenario())


def test_a_slot_given_to_somebody_who_is_cancelled_before_waking_is_not_lost() -> None:
    async def scenario() -> None:
        one = endpoint()
        pool, taken, done = Pool([one], concurrency=1), list[str](), asyncio.Event()
        first = asyncio.create_task(held(pool, taken, done))
        second = asyncio.create_task(held(pool, taken, done))
        await asyncio.sleep(0)
        assert one.in_flight == 1
        done.set()
        while not first.done():  # its slot passes to the second, which is cancelled before it runs
            await asyncio.sleep(0)
            if one.in_flight == 1 and first.done():
                second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        assert second.cancelled()
        assert one.in_flight == 0

    asyncio.run(scenario())


def test_a_cancelled_trial_is_no_verdict() -> None:
    async def scenario() -> None:
        one = endpoint()
        pool = Pool([one], concurrency=4)
        one.breaker.failed(asyncio.get_running_loop().time() - 100.0, trial=False, pause=0.0)
        slots: list[Slot] = []
        for _ in range(2):
            async with pool.slot(avoid=(), until=far()) as slot:
                slots.append(slot)
        assert [slot.trial for slot in slots] == [True, True]
        async with pool.slot(avoid=(), until=far()) as slot:
            slot.answered = True
        assert one.breaker.closed

    asyncio.run(scenario())


def test_waiting_in_vain_ends_at_once() -> None:
    async def scenario() -> None:
        one, two = endpoint("one"), endpoint("two")
        pool, now = Pool([one, two], concurrency=1), asyncio.get_running_loop().time()
        one.breaker.failed(now, trial=False, pause=0.0)
        async with pool.slot(avoid=(), until=now + 30.0) as slot:
            waiting = asyncio.create_task(held(pool, [], asyncio.Event()))
            vain = asyncio.create_task(pool.slot(avoid=(), until=now + 30.0).__aenter__())
            await asyncio.sleep(0)
            slot.failure = "HTTP 404"
        with pytest.raises(NoneLeft, match=r"one\.test:443 for 60\.0 s \(\), two\.test:443 for 60\.0 s \(HTTP 404\)"):
            await vain
        assert not waiting.done()
        waiting.cancel()

    asyncio.run(scenario())
