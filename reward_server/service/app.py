"""The reward service as an ASGI application: admission, limits, the ledger and the answers. It runs anywhere ASGI does.

One process holds the ledger, so that no picture is judged twice; judges may run in as many processes as they like.
"""

import asyncio
from collections.abc import Mapping

from fastapi import FastAPI, Request
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, Response

from configs.reward import Reward
from configs.reward_service import Limits
from reward_server.protocol import MAX_KEY, PROTOCOL, SCORE_PATH, ErrorAnswer, Info, on_wire, write_answer
from reward_server.service.access import Guarded
from reward_server.service.admission import Admission
from reward_server.service.answers import HANDLERS
from reward_server.service.form import Form, read_form
from reward_server.service.http import Application, LastWord
from reward_server.service.judges import Description, EncodedItem, Judge, Unavailable
from reward_server.service.metrics import Measured, Metrics
from reward_server.service.openapi import SCORE_OPERATION, described
from reward_server.service.pace import at_a_pace
from reward_server.service.page import PAGE_HEADERS, page
from reward_server.service.picture_header import count_pixels
from reward_server.service.refusal import Refused
from reward_server.service.scoring import Scoring
from unigrpo.types import Prompt, Score

BODIES = 4
"""Bodies of the largest size that are held at once; smaller ones are more."""

NOT_READY = "the judges do not answer yet; come back later"


def create_app(
    reward: Reward,
    judges: Mapping[str, Judge],
    *,
    limits: Limits,
    request_timeout: float,
    token: str | None = None,
) -> Application:
    """The service of a reward whose parts (configs.reward.parts_of) are judged by `judges`.

    request_timeout: seconds from a request's headers to its answer. token: what callers must send; None asks for none.
    """
    scoring = Scoring(reward, judges)
    metrics = Metrics(scoring.ledgers)
    app = FastAPI(
        title="UniGRPO reward service",
        version=PROTOCOL.partition("/")[2],
        exception_handlers=HANDLERS,
        redirect_slashes=False,
        docs_url=None,  # FastAPI's pages load their code from another host
        redoc_url=None,
    )
    app.openapi = lambda: described(app, guarded=token is not None)  # type: ignore[method-assign]
    app.add_api_route(SCORE_PATH, Scorer(scoring, metrics, limits, request_timeout), methods=["POST"], **SCORE_OPERATION)
    _add_state_routes(app, reward, scoring, metrics)
    _add_page(app)
    return Measured(LastWord(Guarded(app, token)), metrics)


class Scorer:
    """`POST /v1/score`."""

    def __init__(self, scoring: Scoring, metrics: Metrics, limits: Limits, request_timeout: float) -> None:
        self._scoring, self._metrics, self._limits, self._timeout = scoring, metrics, limits, request_timeout
        self._admission = Admission(limits.waiting_requests, BODIES * limits.body_bytes)

    async def __call__(self, request: Request) -> Response:
        """Read, judge, answer. Raises Refused."""
        deadline = asyncio.get_running_loop().time() + self._timeout
        num_bytes, key = body_size(request.headers, self._limits.body_bytes), idempotency_key(request.headers)
        async with self._admission.admitted(num_bytes, deadline):
            items = await self._items(request, deadline)
            answer = await self._scoring.score(items, key, deadline)
        for verdict in answer.verdicts:
            self._metrics.items.labels("scored" if isinstance(verdict, Score) else "failed").inc()
        return Response(write_answer(answer.version, answer.bounds, answer.verdicts), media_type="application/json")

    async def _items(self, request: Request, deadline: float) -> list[EncodedItem]:
        """What is sent, read before `deadline`. Raises Refused."""
        try:
            async with asyncio.timeout_at(deadline):
                form = await read_form(request.headers.get("content-type", ""), at_a_pace(request.stream()), self._limits)
        except TimeoutError:
            raise Refused(408, f"the body took longer than {self._timeout:g} s") from None
        return await asyncio.to_thread(encoded_items, form, self._limits.image_pixels)


def encoded_items(form: Form, max_pixels: int) -> list[EncodedItem]:
    """Its pictures with their prompts. Raises Refused 422 naming the first picture that is not worth decoding."""
    items = []
    for place, (item, image) in enumerate(zip(form.request.items, form.images, strict=True)):
        try:
            pixels = count_pixels(image, max_pixels=max_pixels)
        except ValueError as error:
            raise Refused(422, f"picture {place + 1} of {len(form.images)}: {error}") from None
        prompt = Prompt(index=place, text=item.prompt, metadata=item.metadata)
        items.append(EncodedItem(prompt=prompt, image=image, pixels=pixels))
    return items


def body_size(headers: Headers, most: int) -> int:
    """Announced bytes of a body. Raises Refused: 411 where nothing is, 413 for more than `most`, 415 for a compressed body."""
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "the body has a Content-Encoding; pictures are compressed already, send it as it is")
    length = headers.get("content-length")
    if length is None or "transfer-encoding" in headers:
        raise Refused(411, "send the header Content-Length; a body in chunks is not taken")
    if int(length) > most:
        raise Refused(413, f"the body has {length} bytes; {most} are allowed")
    return int(length)


def idempotency_key(headers: Headers) -> str | None:
    """The header Idempotency-Key. Raises Refused 400 for two, or for one that is not 1 to MAX_KEY printable ASCII."""
    keys = headers.getlist("idempotency-key")
    if not keys:
        return None
    if len(keys) > 1 or not 1 <= len(keys[0]) <= MAX_KEY or not all(" " <= character <= "~" for character in keys[0]):
        raise Refused(400, f"send at most one Idempotency-Key, of 1 to {MAX_KEY} printable ASCII characters")
    return keys[0]


def _add_state_routes(app: FastAPI, reward: Reward, scoring: Scoring, metrics: Metrics) -> None:
    """What the service says of itself."""

    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        """The service runs."""
        return {"status": "alive"}

    @app.get("/readyz", responses={503: {"model": ErrorAnswer}})
    async def ready() -> dict[str, str]:
        """Every verifier has a replica that can judge."""
        if not await scoring.is_ready():
            raise Refused(503, NOT_READY)
        return {"status": "ready"}

    @app.get("/v1/info", responses={401: {"model": ErrorAnswer}, 503: {"model": ErrorAnswer}})
    async def info() -> Info:
        """What judges here."""
        told = await _describe(scoring)
        return Info(protocol=PROTOCOL, kind=reward.kind, version=told.version, bounds=on_wire(told.bounds))

    @app.get("/metrics", response_class=Response)
    async def prometheus() -> Response:
        """Counters in Prometheus' text format."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def _add_page(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        """The OpenAPI document to read."""
        return HTMLResponse(page(app.openapi()), headers=PAGE_HEADERS)


async def _describe(scoring: Scoring) -> Description:
    try:
        return await scoring.describe()
    except Unavailable:
        raise Refused(503, NOT_READY) from None
