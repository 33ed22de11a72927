"""What others said, made fit for logs and reasons."""

_PIECE = 8
"""Characters of a secret in a row that count as the secret: a quotation may begin or end in the middle of it."""


def quoted(text: str, *, limit: int, secret: str | None = None) -> str:
    """At most `limit` characters of a text, unprintable ones replaced; nothing where a piece of the secret would show."""
    shown = text[:limit]
    if secret and any(secret[start : start + _PIECE] in shown for start in range(max(1, len(secret) - _PIECE + 1))):
        return "(withheld: it repeats the bearer token)"
    cut = "".join(character if character.isprintable() else "?" for character in shown)
    return cut if len(text) <= limit else f"{cut} ... ({len(text) - limit} more)"
