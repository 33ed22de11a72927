import pytest

from reward_server.remote.quoting import quoted


@pytest.mark.parametrize(
    ("text", "secrets", "shown"),
    [
        ("all well", [], "all well"),
        ("a\x00b\x1b[31mc\nd\u202e", [], "a?b?[31mc?d?"),
        (30 * "x", [], 20 * "x" + " ... (10 more)"),
        ("the token is abc", ["abc"], "(withheld: it repeats the bearer token)"),
        ("..........0123456789abcdef", ["0123456789abcdef"], "(withheld: it repeats the bearer token)"),
        ("..........0123456789abcdef", ["another one", "0123456789abcdef"], "(withheld: it repeats the bearer token)"),
        ("89abcdef", ["0123456789abcdef"], "(withheld: it repeats the bearer token)"),
        ("9abcdef", ["0123456789abcdef"], "9abcdef"),
        (20 * "x" + "0123456789abcdef", ["0123456789abcdef"], 20 * "x" + " ... (16 more)"),
    ],
)
def test_quoted(text: str, secrets: list[str], shown: str) -> None:
    assert quoted(text, limit=20, secrets=secrets) == shown
