"""What others said, made fit for logs and reasons."""

from collections.abc import Collection, Iterator

_PIECE = 8
"""Characters of a secret in a row that count as the secret: a quotation may begin or end in the middle of it."""


def quoted(text: str, *, limit: int, secrets: Collection[str] = ()) -> str:
    """At most `limit` characters of a text, unprintable ones replaced; nothing where a piece of a secret would show."""
    shown = text[:limit]
    if any(piece in shown for secret in secrets for piece in _pieces(secret)):
        return "(withheld: it repeats the bearer token)"
    cut = "".join(character if character.isprintable() else "?" for character in shown)
    return cut if len(text) <= limit else f"{cut} ... ({len(text) - limit} more)"


def _pieces(secret: str) -> Iterator[str]:
    for start in range(max(1, len(secret) - _PIECE + 1)):
        yield secret[start : start + _PIECE]
