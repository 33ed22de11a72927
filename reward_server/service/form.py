"""A request's multipart body, read as it streams in, every limit held before more is kept.

The grammar is python_multipart's; what is kept of it, and how much, is decided here. Nothing is written to disk, file names and
transfer encodings mean nothing, and reading stops at the first fault.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from configs.reward_service import Limits
from reward_server.protocol import IMAGE_TYPES, ScoreRequest, read_request
from reward_server.service.refusal import Refused

MAX_HEADERS = 8
"""Headers of one part."""
MAX_HEADER_BYTES = 512
"""Bytes of one header of a part."""
MAX_BOUNDARY = 70
"""RFC 2046, section 5.1.1."""
MAGIC = {"image/png": (0, b"\x89PNG\r\n\x1a\n"), "image/webp": (8, b"WEBP")}
"""Where the bytes of a type stand that tell it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """A whole request. `images` has one encoded picture an item."""

    request: ScoreRequest
    images: list[bytes]


@dataclass(slots=True)
class _Part:
    headers: dict[str, str] = field(default_factory=dict)
    name: str = ""
    content: bytearray = field(default_factory=bytearray)


async def read_form(content_type: str, body: AsyncIterator[bytes], limits: Limits) -> Form:
    """Read a whole body.

    Raises Refused: 415 for another type of body or part, 413 for more or larger parts than `limits`, 400 for what is no
    multipart form of one `request` followed by one `image` an item.
    """
    reader = FormReader(boundary_of(content_type), limits)
    async for chunk in body:
        reader.feed(chunk)
    return reader.end()


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type names. Raises Refused 415 for another type and 400 for no boundary."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise Refused(415, f"the Content-Type is {content_type[:80]!r}; send multipart/form-data")
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= MAX_BOUNDARY:
        raise Refused(400, f"the boundary has {len(boundary)} characters; 1 to {MAX_BOUNDARY} are allowed")
    return boundary


class FormReader:
    """Takes a body in pieces."""

    def __init__(self, boundary: bytes, limits: Limits) -> None:
        self._limits = limits
        self._request: ScoreRequest | None = None
        self._images: list[bytes] = []
        self._part = _Part()
        self._header = (bytearray(), bytearray())
        self._ended = False
        self._num_bytes = 0
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._end_part,
                "on_end": self._end_form,
            },
            max_header_count=MAX_HEADERS,
            max_header_size=MAX_HEADER_BYTES,
        )

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes. Raises Refused."""
        self._num_bytes += len(chunk)
        if self._num_bytes > self._limits.body_bytes:
            raise Refused(413, f"the body is larger than the {self._limits.body_bytes} bytes allowed")
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise Refused(400, "the body is no multipart/form-data of the boundary named in the Content-Type") from None

    def end(self) -> Form:
        """The whole form. Raises Refused when parts are missing."""
        if not self._ended:
            raise Refused(400, "the body ends before its closing boundary")
        if self._request is None:
            raise Refused(400, "the part `request` is missing")
        wanted = len(self._request.items)
        if len(self._images) != wanted:
            raise Refused(400, f"there are {len(self._images)} parts `image` for {wanted} items; send one an item, in order")
        return Form(request=self._request, images=self._images)

    def _begin(self) -> None:
        if self._ended:
            raise Refused(400, "something follows the closing boundary")
        self._part = _Part()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _header_end(self) -> None:
        name, value = (part.decode("latin-1").strip() for part in self._header)
        self._header = (bytearray(), bytearray())
        if name.lower() in self._part.headers:
            raise Refused(400, f"a part gives the header {name[:80]!r} twice")
        self._part.headers[name.lower()] = value

    def _headers_finished(self) -> None:
        part = self._part
        disposition, options = parse_options_header(part.headers.get("content-disposition", ""))
        part.name = options.get(b"name", b"").decode("latin-1")
        kind = parse_options_header(part.headers.get("content-type", ""))[0].decode("latin-1")
        if disposition != b"form-data" or part.name not in ("request", "image"):
            raise Refused(400, f"a part is called {part.name[:80]!r}; send one `request`, then one `image` an item")
        if (part.name == "request") != (self._request is None):
            raise Refused(400, "send exactly one part `request`, before every part `image`")
        allowed = ("application/json",) if part.name == "request" else IMAGE_TYPES
        if kind not in allowed:
            raise Refused(415, f"a part `{part.name}` has Content-Type {kind[:80]!r}; send {' or '.join(allowed)}")
        if part.headers.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
            raise Refused(415, "a part has a Content-Transfer-Encoding; send raw bytes")
        if part.name == "image" and self._request and len(self._images) == len(self._request.items):
            raise Refused(400, f"there are more parts `image` than the {len(self._images)} items")

    def _data(self, data: bytes, start: int, end: int) -> None:
        part, limits = self._part, self._limits
        allowed = limits.metadata_bytes if part.name == "request" else limits.image_bytes
        if len(part.content) + end - start > allowed:
            raise Refused(413, f"a part `{part.name}` is larger than the {allowed} bytes allowed")
        part.content.extend(memoryview(data)[start:end])

    def _end_part(self) -> None:
        content, self._part.content = bytes(self._part.content), bytearray()
        if self._part.name == "request":
            self._request = self._read_request(content)
            return
        kind = parse_options_header(self._part.headers["content-type"])[0].decode("latin-1")
        place, magic = MAGIC[kind]
        if not content.startswith(magic, place):
            raise Refused(415, f"picture {len(self._images) + 1} is sent as {kind}, but its bytes are not")
        self._images.append(content)

    def _read_request(self, content: bytes) -> ScoreRequest:
        try:
            request = read_request(content)
        except ValueError as error:
            raise Refused(400, f"part `request`: {error}") from None
        if len(request.items) > self._limits.items:
            raise Refused(413, f"the request has {len(request.items)} items; {self._limits.items} are allowed")
        return request

    def _end_form(self) -> None:
        self._ended = True
