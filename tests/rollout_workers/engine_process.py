"""A reasoner in a process of its own, as the cluster starts it: environment first, then torch and vLLM."""

import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from configs.schema import TrainConfig
from rollout_workers.reasoner import Reasoner, reasoner_environment
from unigrpo.buckets import Bucket
from unigrpo.types import Thought

_served: list[Reasoner] = []


class EngineProcess:
    """The reasoner's methods, run over there."""

    def __init__(self, config: TrainConfig) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        before = dict(os.environ)
        os.environ.update(reasoner_environment(config))
        started = self._pool.submit(_start, config)
        os.environ.clear()
        os.environ.update(before)
        started.result()

    def version(self) -> int | None:
        return self._call("version")

    def load(self, version: int, buckets: Iterable[Bucket]) -> None:
        self._call("load", version, buckets)

    def think(self, *arguments: Any) -> list[list[Thought]]:
        return self._call("think", *arguments)

    def load_breaking_off(self, version: int, buckets: Iterable[Bucket], after: int) -> None:
        """A load whose transport fails inside the engine when `after` tensors are through."""
        self._pool.submit(_load_breaking_off, version, buckets, after).result()

    def close(self) -> None:
        self._pool.shutdown()

    def _call(self, method: str, *arguments: Any) -> Any:
        return self._pool.submit(_call, method, *arguments).result()


def _start(config: TrainConfig) -> None:
    _served.append(Reasoner(config))


def _call(method: str, *arguments: Any) -> Any:
    return getattr(_served[0], method)(*arguments)


def _load_breaking_off(version: int, buckets: Iterable[Bucket], after: int) -> None:
    engine = _served[0]._engine
    update = engine.update_weights

    def broken(request: dict) -> None:
        def tensors() -> Iterable:
            yield from request["update_info"]["tensors"][:after]
            raise ConnectionError("the transport broke")

        update({"update_info": {"tensors": tensors()}})

    engine.update_weights = broken
    try:
        _served[0].load(version, buckets)
    finally:
        del engine.update_weights
