"""What the service tells Prometheus, in a registry of its own."""

import time
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from reward_server.protocol import SCORE_PATH
from reward_server.service.http import Application, Message, Receive, Send
from reward_server.service.ledger import Ledger

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Upper ends of the histogram's bins."""


class Metrics:
    """The service's counters."""

    def __init__(self, ledgers: Mapping[str, Ledger]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(LedgerCollector(ledgers))
        self.requests = Counter(
            "unigrpo_reward_requests", "Requests to /v1/score by status", ["status"], registry=self._registry
        )
        self.items = Counter("unigrpo_reward_items", "Answered items by outcome", ["outcome"], registry=self._registry)
        self.seconds = Histogram(
            "unigrpo_reward_request_seconds", "From headers to answer", buckets=SECONDS, registry=self._registry
        )
        self.body_bytes = Counter("unigrpo_reward_body_bytes", "Bytes of bodies read", registry=self._registry)
        self.in_flight = Gauge("unigrpo_reward_requests_in_flight", "Requests being answered", registry=self._registry)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)


class LedgerCollector(Collector):
    """The ledgers' counts, a label a verifier."""

    def __init__(self, ledgers: Mapping[str, Ledger]) -> None:
        self._ledgers = ledgers

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Counts as they stand."""
        family = CounterMetricFamily(
            "unigrpo_reward_verdicts",
            "Items by verifier: given to it (judged), of these without a score (failed), remembered (cached), shared with an "
            "equal one (shared)",
            labels=["verifier", "source"],
        )
        for name, ledger in self._ledgers.items():
            for source in ("judged", "failed", "cached", "shared"):
                family.add_metric([name, source], getattr(ledger.counts, source))
        yield family


class Measured:
    """ASGI middleware: counts requests to /v1/score, their bytes and their time."""

    def __init__(self, app: Application, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope.get("path") != SCORE_PATH:
            await self._app(scope, receive, send)
            return
        status = "none"

        async def watched_receive() -> Message:
            message = await receive()
            self._metrics.body_bytes.inc(len(message.get("body", b"")))
            return message

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        started = time.monotonic()
        try:
            with self._metrics.in_flight.track_inprogress():
                await self._app(scope, watched_receive, watched_send)
        finally:
            self._metrics.seconds.observe(time.monotonic() - started)
            self._metrics.requests.labels(status).inc()
