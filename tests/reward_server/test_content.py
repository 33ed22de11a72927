"""What decides a content hash, and what does not."""

import math

import pytest

from reward_server.content import content_hash
from unigrpo.types import Prompt


def test_everything_told_decides_and_nothing_else() -> None:
    def hashed(picture: bytes = b"p", *, text: str = "a", index: int = 0, **metadata: object) -> str:
        return content_hash(Prompt(index=index, text=text, metadata=metadata), picture)

    assert hashed(n=1, m=[2]) == hashed(index=5, m=[2], n=1)
    others = [hashed(text="b", n=1, m=[2]), hashed(n=1, m=[3]), hashed(n="1", m=[2]), hashed(b"q", n=1, m=[2])]
    assert len({*others, hashed(n=1, m=[2])}) == 5


def test_metadata_that_is_not_json_has_no_hash() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_hash(Prompt(index=0, text="", metadata={"a": math.nan}), b"")
