"""What others said, made fit for logs and reasons."""


def quoted(text: str, *, limit: int, secret: str | None = None) -> str:
    """At most `limit` characters of a text, those that do not print replaced; nothing of a text that holds the secret."""
    if secret and secret in text:
        return "(withheld: it repeats the bearer token)"
    cut = "".join(character if character.isprintable() else "?" for character in text[:limit])
    return cut if len(text) <= limit else f"{cut} ... ({len(text) - limit} more)"
