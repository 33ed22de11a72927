"""One attempt: a POST that reaches only where it may, reads only so much, and sees every other answer as what it is.

A connection serves one attempt. Kept open, it could hand the tail of one answer to the next call, and a lying server could so
judge another picture. Answers are asked for as they are and refused when compressed, so none grows beyond what is read.
"""

import asyncio
import ssl
from datetime import UTC, datetime
from http import HTTPStatus
from io import BytesIO

import aiohttp
from yarl import URL

from configs.remote import Remote
from reward_server.remote.addresses import GuardedResolver
from reward_server.remote.bearer import Bearer
from reward_server.remote.retry import retry_after

_ENDPOINTS_FAULT = frozenset({401, 402, 403, 404, 405, 407, 408, 410, 421, 425, 426, 429, 451})
"""Statuses of 4xx that say something about the endpoint (its load, its path, our token there) and nothing about the request."""
_QUOTED_BYTES = 4096
"""Read of an answer that is no success, to be quoted."""
_CHUNK = 1 << 16


class AttemptError(Exception):
    """An attempt that ended without an answer to read."""

    def __init__(self, reason: str, *, outage: bool, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.outage = outage
        """Whether the endpoint failed, so that another one may answer, or the same one later; else the request itself is at
        fault or was answered wrongly, and asking again is in vain."""
        self.pause = pause
        """Seconds that the endpoint asks to be left alone."""


def trust(remote: Remote) -> ssl.SSLContext:
    """The system's certificate authorities and those of `ca_file`. Raises ValueError for a file that holds none."""
    context = ssl.create_default_context()
    if remote.ca_file is not None:
        try:
            context.load_verify_locations(cafile=remote.ca_file)
        except OSError as error:
            raise ValueError(f"ca_file {remote.ca_file} holds no certificates in PEM format ({error})") from None
    return context


class Transport:
    """A client session, made in the running event loop; close it there."""

    def __init__(self, remote: Remote, *, trusted: ssl.SSLContext, bearer: Bearer) -> None:
        self._bearer = bearer
        self._max_answer_bytes = remote.max_answer_bytes
        connector = aiohttp.TCPConnector(
            resolver=GuardedResolver(remote.allows_private), use_dns_cache=False, force_close=True, limit=0, ssl=trusted
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers={"Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def post(self, url: URL, body: bytes, headers: dict[str, str]) -> bytes:
        """The answer of status 200. Raises AttemptError for anything else. Has no deadline of its own: the caller cancels.

        No exception of the client library gets out: some show in their representation the headers that were sent.
        """
        try:
            sent = {**headers, **self._bearer.headers}
            async with self._session.post(url, data=BytesIO(body), headers=sent, allow_redirects=False) as response:
                if response.status != 200:
                    raise await self._refusal(response)
                self._require_plain(response)
                return await self._whole(response)
        except aiohttp.ClientResponseError as error:
            raise AttemptError(f"it does not speak proper HTTP: {error.message}", outage=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise AttemptError(f"{type(error).__name__}: {error}", outage=True) from None

    async def close(self) -> None:
        await self._session.close()

    def _require_plain(self, response: aiohttp.ClientResponse) -> None:
        for header, plain in (("Content-Encoding", "identity"), ("Transfer-Encoding", "chunked")):
            encoding = response.headers.get(header, plain).strip().lower()
            if encoding not in ("", plain):
                raise AttemptError(f"the answer is compressed ({header}: {encoding}), which was not asked for", outage=False)
        if response.content_length is not None and response.content_length > self._max_answer_bytes:
            raise self._too_large(response.content_length)

    async def _whole(self, response: aiohttp.ClientResponse) -> bytes:
        content = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK):
            content += chunk
            if len(content) > self._max_answer_bytes:
                raise self._too_large(len(content))
        return bytes(content)

    def _too_large(self, size: int) -> AttemptError:
        return AttemptError(f"the answer has {size} bytes or more; max_answer_bytes is {self._max_answer_bytes}", outage=False)

    async def _refusal(self, response: aiohttp.ClientResponse) -> AttemptError:
        """What a status other than 200 means. Of a redirect not even the target is read.

        An endpoint that refuses whatever it is asked answers at once, and so is free again at once: were that no failure of its
        own, it would take most calls from those that work.
        """
        status = response.status
        if status == HTTPStatus.UNAUTHORIZED:
            await asyncio.to_thread(self._bearer.read_again)
        if 300 <= status < 400:
            return AttemptError(f"HTTP {status}, a redirect, which is not followed; give the endpoint's own URL", outage=True)
        said = f"HTTP {status}: {await _start(response)}"
        if 400 <= status < 500 and status not in _ENDPOINTS_FAULT:
            return AttemptError(said, outage=False)
        pause = retry_after(response.headers.get("Retry-After"), now=datetime.now(UTC))
        return AttemptError(said, outage=True, pause=pause)


async def _start(response: aiohttp.ClientResponse) -> str:
    """The beginning of an answer as text, empty where the rest of it cannot be had."""
    content = bytearray()
    try:
        while len(content) < _QUOTED_BYTES and (chunk := await response.content.read(_QUOTED_BYTES)):
            content += chunk
    except (aiohttp.ClientError, OSError):
        pass
    return content[:_QUOTED_BYTES].decode("utf-8", errors="replace")
