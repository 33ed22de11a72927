"""A reasoner in a process of its own, as the cluster starts it: environment first, then torch and vLLM."""

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from typing import Any

from torch import Tensor

from configs.schema import TrainConfig
from rollout_workers.reasoner import Reasoner, reasoner_environment
from unigrpo.buckets import Bucket
from unigrpo.types import Thought

Tensors = Iterable[tuple[str, Tensor]]
Tamper = Callable[[Tensors], Tensors]

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

    def load_tampered(self, version: int, buckets: Iterable[Bucket], tamper: Tamper) -> None:
        """A load whose tensors are changed on their way into the engine, after all checks of the buckets."""
        self._pool.submit(_load_tampered, version, buckets, tamper).result()

    def close(self) -> None:
        self._pool.shutdown()

    def _call(self, method: str, *arguments: Any) -> Any:
        return self._pool.submit(_call, method, *arguments).result()


def _start(config: TrainConfig) -> None:
    _served.append(Reasoner(config))


def _call(method: str, *arguments: Any) -> Any:
    return getattr(_served[0], method)(*arguments)


def break_off(tensors: Tensors, *, after: int) -> Tensors:
    """Fail when some tensors are through."""
    yield from islice(tensors, after)
    raise ConnectionError("the transport broke")


def leave_out(tensors: Tensors, *, left_out: str) -> Tensors:
    """Lose one tensor without a word."""
    return ((name, tensor) for name, tensor in tensors if name != left_out)


def _load_tampered(version: int, buckets: Iterable[Bucket], tamper: Tamper) -> None:
    engine = _served[0]._engine
    update = engine.update_weights
    engine.update_weights = lambda request: update({"update_info": {"tensors": tamper(request["update_info"]["tensors"])}})
    try:
        _served[0].load(version, buckets)
    finally:
        del engine.update_weights
