"""Requests that must be refused, each with the status it must get, as the bytes that go over the wire."""

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

from configs.reward_service import Limits
from reward_server.protocol import PROTOCOL
from tests.reward_server.service.fakes import BLACK, TOKEN, request_json
from tests.unigrpo.test_pictures import chunk, png

LIMITS = Limits(body_bytes=1 << 20, image_bytes=256 << 10, image_pixels=512 * 512, items=4, metadata_bytes=16 << 10)
BOUNDARY = "8f3b"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


@dataclass(frozen=True)
class Bad:
    name: str
    status: int
    sent: bytes


Headers = Sequence[tuple[str, str]]
Part = tuple[dict[str, str], bytes]


def http(body: bytes = b"", *more: tuple[str, str], line: str = "POST /v1/score HTTP/1.1", **standard: str | None) -> bytes:
    """A request. standard: host, authorization, content_type or content_length, None for leaving one out."""
    values = {
        "host": "127.0.0.1",
        "authorization": f"Bearer {TOKEN}",
        "content_type": FORM,
        "content_length": str(len(body)),
    } | standard
    headers = [(name.replace("_", "-"), value) for name, value in values.items() if value is not None]
    lines = [line, *(f"{name}: {value}" for name, value in [*headers, *more])]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def form(*parts: Part, ending: str = f"--{BOUNDARY}--\r\n", boundary: str = BOUNDARY) -> bytes:
    """A multipart body."""
    heads = ["".join(f"{name}: {value}\r\n" for name, value in headers.items()) for headers, _ in parts]
    pieces = [
        f"--{boundary}\r\n{head}\r\n".encode() + content + b"\r\n" for head, (_, content) in zip(heads, parts, strict=True)
    ]
    return b"".join(pieces) + ending.encode()


def asked(content: Any = None, *, kind: str = "application/json", name: str = "request") -> Part:
    """The part `request`; bytes go as they are."""
    raw = content if isinstance(content, bytes) else json.dumps(request_json("x") if content is None else content).encode()
    return {"Content-Disposition": f'form-data; name="{name}"', "Content-Type": kind}, raw


def image(content: bytes = BLACK, *, kind: str = "image/png", **headers: str) -> Part:
    """A part `image`."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"Content-Disposition": 'form-data; name="image"; filename="x.png"', "Content-Type": kind} | more, content


def saved(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    """A picture of another format."""
    buffer = BytesIO()
    Image.new(mode, (8, 8)).save(buffer, format=kind, **options)
    return buffer.getvalue()


def frames(kind: str) -> bytes:
    """Two frames."""
    return saved(kind, save_all=True, append_images=[Image.new("RGB", (8, 8), (9, 9, 9))])


def bad_requests() -> Iterator[Bad]:
    """All of them."""
    yield from _bad_heads()
    yield from _bad_bodies()
    for name, content in bad_json().items():
        yield Bad(f"json: {name}", 400, http(form(asked(content), image())))
    for name, status, content, kind in bad_pictures():
        yield Bad(f"picture: {name}", status, http(form(asked(), image(content, kind=kind))))
    two = form(asked(request_json("x", "y")), image(), image(BLACK[:20]))
    yield Bad("picture: second of two cut in the header", 422, http(two))


def _bad_heads() -> Iterator[Bad]:
    good = form(asked(), image())
    for name, value in {
        "none": None,
        "wrong": "Bearer wrong",
        "longer": f"Bearer {TOKEN}x",
        "another scheme": f"Basic {TOKEN}",
        "no scheme": TOKEN,
        "empty": "Bearer ",
        "not ASCII": "Bearer \xe4\xff",
    }.items():
        yield Bad(f"token: {name}", 401, http(good, authorization=value))
    yield Bad("token: twice", 401, http(good, ("authorization", f"Bearer {TOKEN}")))
    yield Bad("token: in the query", 401, http(good, authorization=None, line=f"POST /v1/score?token={TOKEN} HTTP/1.1"))
    for line, status in {
        "GET /v1/score HTTP/1.1": 405,
        "PUT /v1/score HTTP/1.1": 405,
        "DELETE /v1/score HTTP/1.1": 405,
        "POST /healthz HTTP/1.1": 405,
        "POST /v1/scores HTTP/1.1": 404,
        "POST /v1/score/ HTTP/1.1": 404,
        "POST /v2/score HTTP/1.1": 404,
        "POST /v1/../v1/score HTTP/1.1": 404,
        "POST /v1/score%00 HTTP/1.1": 404,
        "POST http://192.0.2.1/v1/score HTTP/1.1": 404,
        "GET /../../etc/passwd HTTP/1.1": 404,
        "POST /v1/score": 400,
        "PRI * HTTP/2.0": 404,
        "\x16\x03\x01\x02": 400,
    }.items():
        yield Bad(f"line: {line!r}", status, http(good, line=line))
    chunked = b"5\r\nhello\r\n0\r\n\r\n"
    yield Bad("length: none", 411, http(content_length=None))
    yield Bad("length: in chunks", 411, http(chunked, ("transfer-encoding", "chunked"), content_length=None))
    yield Bad("length: and chunks", 411, http(chunked, ("transfer-encoding", "chunked"), content_length="5"))
    yield Bad("length: larger than allowed", 413, http(content_length=str(LIMITS.body_bytes + 1)))
    yield Bad("length: 2**62", 413, http(content_length=str(2**62)))
    for length in ("-1", "many", "1e3", "0x10", "9" * 30, "+5", "1, 2"):
        yield Bad(f"length: {length}", 400, http(good, content_length=length))
    yield Bad("length: two", 400, http(good, ("content-length", "1")))
    for coding in ("gzip", "deflate", "br"):
        yield Bad(f"coding: {coding}", 415, http(good, ("content-encoding", coding)))
    for kind, status in {
        None: 415,
        "": 415,
        "application/json": 415,
        "application/x-www-form-urlencoded": 415,
        "application/octet-stream": 415,
        "application/x-python-serialize": 415,
        f"multipart/mixed; boundary={BOUNDARY}": 415,
        "multipart/form-data": 400,
        "multipart/form-data; boundary=": 400,
        f"multipart/form-data; boundary={'b' * 71}": 400,
        "multipart/form-data; boundary=other": 400,
    }.items():
        yield Bad(f"type: {kind}", status, http(good, content_type=kind))
    for name, key in {"empty": "", "long": "k" * 129, "not ASCII": "k\xe9", "tab": "a\tb"}.items():
        yield Bad(f"key: {name}", 400, http(good, ("idempotency-key", key)))
    yield Bad("key: two", 400, http(good, ("idempotency-key", "a"), ("idempotency-key", "b")))
    yield Bad("headers: no colon", 400, http(good, line="POST /v1/score HTTP/1.1\r\nnonsense"))
    yield Bad("headers: zero byte", 400, http(good, ("x", "a\0b")))


def _bad_bodies() -> Iterator[Bad]:
    large = b"\x89PNG\r\n\x1a\n" + bytes(LIMITS.image_bytes)
    no_name = ({"Content-Disposition": "form-data", "Content-Type": "image/png"}, BLACK)
    mixed = ({"Content-Disposition": 'attachment; name="image"', "Content-Type": "image/png"}, BLACK)
    bodies: dict[str, tuple[int, bytes]] = {
        "empty": (400, b""),
        "noise": (400, bytes(range(256)) * 8),
        "only the end": (400, form()),
        "no end": (400, form(asked(), image(), ending="")),
        "half an end": (400, form(asked(), image(), ending=f"--{BOUNDARY}-")),
        "cut in a picture": (400, form(asked(), image())[:-60]),
        "cut in a header": (400, form(asked(), image())[:30]),
        "another boundary": (400, form(asked(), image(), boundary="other", ending="--other--\r\n")),
        "no request": (400, form(image())),
        "request last": (400, form(image(), asked())),
        "two requests": (400, form(asked(), asked(), image())),
        "part of another name": (400, form(asked(), asked(b"1", name="extra"), image())),
        "part of a path's name": (400, form(asked(), asked(b"1", name="../../image"), image())),
        "part without a name": (400, form(asked(), no_name)),
        "part without a disposition": (400, form(({"Content-Type": "application/json"}, b"{}"), image())),
        "part that is an attachment": (400, form(asked(), mixed)),
        "part without headers": (400, form(({}, b"{}"), image())),
        "request as text": (415, form(asked(kind="text/plain"), image())),
        "request as pickle": (415, form(asked(b"\x80\x04.", kind="application/x-python-serialize"), image())),
        "request as a form": (415, form(asked(kind=FORM), image())),
        "part in base64": (415, form(asked(), image(Content_Transfer_Encoding="base64"))),
        "part in quoted-printable": (415, form(asked(), image(Content_Transfer_Encoding="quoted-printable"))),
        "part with many headers": (400, form(asked(), (image()[0] | {f"x{number}": "y" for number in range(20)}, BLACK))),
        "part with a long header": (400, form(asked(), image(x="y" * 2000))),
        "part with a header twice": (400, form(asked(), image(content_type="image/webp"))),
        "fewer pictures than items": (400, form(asked(request_json("x", "y")), image())),
        "more pictures than items": (400, form(asked(), image(), image())),
        "no pictures": (400, form(asked())),
        "more items than allowed": (413, form(asked(request_json(*"xyzuv")), *[image()] * 5)),
        "large request": (413, form(asked(request_json("x" * LIMITS.metadata_bytes)), image())),
        "large picture": (413, form(asked(), image(large))),
        "one large picture of two": (413, form(asked(request_json("x", "y")), image(), image(large))),
    }
    for name, (status, body) in bodies.items():
        yield Bad(f"body: {name}", status, http(body))


def bad_json() -> dict[str, Any]:
    """What the part `request` must not hold; all get 400."""
    item = {"prompt": "x"}

    def raw(metadata: str) -> bytes:
        return f'{{"protocol": "{PROTOCOL}", "items": [{{"prompt": "x", "metadata": {metadata}}}]}}'.encode()

    return {
        "empty": b"",
        "no JSON": b"prompt=x",
        "cut": b'{"protocol": "unigr',
        "null": b"null",
        "a list": [],
        "a number": b"7",
        "a text": "x",
        "trailing": json.dumps(request_json("x")).encode() + b"{}",
        "single quotes": b"{'protocol': 1}",
        "comment": b"/* x */ {}",
        "NaN": raw('{"a": NaN}'),
        "Infinity": raw('{"a": Infinity}'),
        "minus Infinity": raw('{"a": -Infinity}'),
        "1e999": raw('{"a": 1e999}'),
        "an integer of 5000 digits": raw(f'{{"a": {"9" * 5000}}}'),
        "2**63": raw(f'{{"a": {2**63}}}'),
        "a key twice": raw('{"a": 1, "a": 2}'),
        "items twice": f'{{"protocol": "{PROTOCOL}", "items": [], "items": [{{"prompt": "x"}}]}}'.encode(),
        "deep lists": raw('{"a": ' + "[" * 5000 + "]" * 5000 + "}"),
        "deep objects": raw('{"a": ' * 2000 + "1" + "}" * 2000),
        "depth 33": raw('{"a": ' + "[" * 33 + "]" * 33 + "}"),
        "half a surrogate pair": raw(r'{"a": "\ud800"}'),
        "half a surrogate pair as a key": raw(r'{"\udc00": 1}'),
        "not UTF-8": raw('{"a": "?"}').replace(b"?", b"\xff"),
        "UTF-16": json.dumps(request_json("x")).encode("utf-16"),
        "byte order mark": b"\xef\xbb\xbf" + json.dumps(request_json("x")).encode(),
        "unknown key": request_json("x") | {"thought": "the answer is yes"},
        "unknown key of an item": request_json() | {"items": [item | {"image_url": "http://192.0.2.1/x.png"}]},
        "no protocol": {"items": [item]},
        "protocol 2": request_json("x") | {"protocol": "unigrpo-reward/2"},
        "protocol as a number": request_json("x") | {"protocol": 1},
        "no items": {"protocol": PROTOCOL},
        "empty items": request_json(),
        "items as an object": request_json() | {"items": {"0": item}},
        "items of texts": request_json() | {"items": ["x"]},
        "items of nothing": request_json() | {"items": [None]},
        "no prompt": request_json() | {"items": [{"metadata": {}}]},
        "prompt as a number": request_json() | {"items": [{"prompt": 7}]},
        "prompt as null": request_json() | {"items": [{"prompt": None}]},
        "prompt as a list": request_json() | {"items": [{"prompt": ["x"]}]},
        "metadata as a list": request_json() | {"items": [item | {"metadata": []}]},
        "metadata as null": request_json() | {"items": [item | {"metadata": None}]},
        "metadata as a text": request_json() | {"items": [item | {"metadata": "{}"}]},
    }


def bad_pictures() -> Iterator[tuple[str, int, bytes, str]]:
    """Name, status, bytes and declared type."""
    webp = saved("WEBP", lossless=True)
    for name in ("image/jpeg", "image/gif", "image/svg+xml", "image/tiff", "image/bmp", "image/avif", "text/plain", ""):
        yield f"declared {name}", 415, BLACK, name
    for name, content in {
        "nothing": b"",
        "text": b"a red circle",
        "a URL": b"http://169.254.169.254/latest/meta-data",
        "a file's URL": b"file:///etc/passwd",
        "GIF": saved("GIF"),
        "JPEG": saved("JPEG"),
        "JPEG in CMYK": saved("JPEG", "CMYK"),
        "TIFF": saved("TIFF"),
        "BMP": saved("BMP"),
        "ICO": saved("ICO"),
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://192.0.2.1/x"/></svg>',
        "XML of entities": b'<!DOCTYPE x [<!ENTITY a "&b;&b;"><!ENTITY b "lol">]><svg>&a;</svg>',
        "PDF": b"%PDF-1.7\n",
        "ZIP": b"PK\x03\x04" + bytes(100),
        "pickle": b"\x80\x04\x95\x0f\x00\x00\x00cposix\nsystem\n.",
        "GIF that goes on as PNG": saved("GIF") + BLACK,
        "zero bytes before PNG": bytes(8) + BLACK,
        "WEBP": webp,
    }.items():
        yield f"{name} as PNG", 415, content, "image/png"
    yield "PNG as WEBP", 415, BLACK, "image/webp"
    yield "RIFF that is no WEBP", 415, b"RIFF\x10\0\0\0AVI " + bytes(16), "image/webp"
    huge = 2**31 - 1
    text = zlib_bomb()
    for name, content in {
        "only a signature": BLACK[:8],
        "cut in the header": BLACK[:20],
        "wrong checksum": BLACK[:30] + bytes([BLACK[30] ^ 1]) + BLACK[31:],
        "no height": png(8, 0, 8, 2, b""),
        "513 x 512": png(513, 512, 8, 2, b""),
        "20000 x 20000": png(20_000, 20_000, 1, 0, bytes(2501 * 100)),
        "2**31 pixels squared": png(huge, huge, 8, 2, b""),
        "16 bits, grey": png(2, 2, 16, 0, bytes(10)),
        "16 bits, colour": png(2, 2, 16, 2, bytes(26)),
        "16 bits, alpha": png(2, 2, 16, 6, bytes(34)),
        "no such colour": png(2, 2, 8, 5, bytes(14)),
        "animated": frames("PNG"),
        "bomb in zTXt": png(1, 1, 8, 2, bytes(4), before=chunk(b"zTXt", b"a\0\0" + text)),
        "bomb in iTXt": png(1, 1, 8, 2, bytes(4), before=chunk(b"iTXt", b"a\0\1\0\0\0" + text)),
    }.items():
        yield f"PNG, {name}", 422, content, "image/png"
    for name, content in {
        "cut": webp[:-8],
        "only a header": webp[:12],
        "zeroes": webp[:12] + bytes(60),
        "animated": frames("WEBP"),
        "16383 x 16383": b"RIFF\x2a\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xfe\x3f\0\xfe\x3f\0" + webp[12:],
    }.items():
        yield f"WEBP, {name}", 422, content, "image/webp"


def undecodable() -> dict[str, tuple[bytes, str]]:
    """Bytes and declared type of pictures whose headers are fine."""
    no_data = png(8, 8, 8, 2, b"").replace(chunk(b"IDAT", zlib.compress(b"")), b"")
    return {
        "PNG, cut in the data": (BLACK[: len(BLACK) // 2 + 10], "image/png"),
        "PNG, no data": (no_data, "image/png"),
        "PNG, data that does not inflate": (BLACK[:33] + chunk(b"IDAT", bytes(50)) + chunk(b"IEND", b""), "image/png"),
    }


def zlib_bomb() -> bytes:
    """128 MiB of zeroes in 128 kB."""
    return zlib.compress(bytes(128 << 20), 9)
