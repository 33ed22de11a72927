"""Who may call: whoever sends the bearer token, on every path but those of OPEN_PATHS."""

import hmac

from starlette.datastructures import Headers

from reward_server.service.answers import error
from reward_server.service.http import Application, Message, Receive, Send
from reward_server.service.refusal import Refused

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs"})
"""How the service is, and the page on its protocol: probes and browsers send no token, and none of it is secret."""


class Guarded:
    """ASGI middleware: 401 without the token, before anything else is looked at. No token lets everyone in."""

    def __init__(self, app: Application, token: str | None) -> None:
        self._app = app
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if self._token is None or scope["path"] in OPEN_PATHS or self._is_known(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        refused = Refused(401, "send the header Authorization: Bearer with the service's token")
        await error(refused)(scope, receive, send)

    def _is_known(self, headers: Headers) -> bool:
        given = headers.getlist("authorization")
        kind, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        assert self._token is not None
        return kind.lower() == "bearer" and hmac.compare_digest(token.strip().encode("latin-1"), self._token)
