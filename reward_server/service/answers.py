"""Answers other than verdicts."""

import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from reward_server.service.refusal import Refused


def error(refused: Refused) -> Response:
    """An ErrorAnswer."""
    return Response(
        json.dumps({"error": refused.message}),
        status_code=refused.status,
        headers=refused.headers,
        media_type="application/json",
    )


async def on_refused(_: Request, refused: Exception) -> Response:
    """A Refused as an answer."""
    assert isinstance(refused, Refused)
    return error(refused)


async def on_routing(_: Request, fault: Exception) -> Response:
    """No such path, or another method of it."""
    assert isinstance(fault, HTTPException)
    answer = error(Refused(fault.status_code, f"{fault.detail}; POST /v1/score takes pictures, /docs tells the rest"))
    answer.headers.update(fault.headers or {})
    return answer


async def on_disconnect(_: Request, __: Exception) -> Response:
    """The sender went away before its body ended; nobody reads this."""
    return error(Refused(400, "the connection closed before the body ended"))


async def on_fault(_: Request, __: Exception) -> Response:
    """A fault of the service's own; it stands in its log."""
    return error(Refused(500, "the service failed; its log says why"))


HANDLERS: dict[int | type[Exception], Any] = {
    Refused: on_refused,
    HTTPException: on_routing,
    ClientDisconnect: on_disconnect,
    Exception: on_fault,
}
