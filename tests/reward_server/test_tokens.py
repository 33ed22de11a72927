from pathlib import Path

import pytest

from configs.remote import Credentials
from reward_server.tokens import read_token

BAD = {
    "empty": "",
    "blank": " \n\t",
    "two words": "s3cr3t-a s3cr3t-b",
    "two lines": "s3cr3t-a\ns3cr3t-b",
    "line break and header": "s3cr3t\r\nX-Other: 1",
    "not ASCII": "s3cr3t-é",
    "control": "s3cr3t\x07",
    "delete": "s3cr3t\x7f",
}


def test_no_token_is_asked_for() -> None:
    assert read_token(Credentials()) is None


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_TOKEN", "  s3cr3t!~\n")
    assert read_token(Credentials(token_env="JUDGE_TOKEN")) == "s3cr3t!~"


def test_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("s3cr3t\n")
    assert read_token(Credentials(token_file=path)) == "s3cr3t"


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_what_is_no_token_is_refused_by_name_and_not_quoted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    monkeypatch.setenv("JUDGE_TOKEN", content)
    for credentials, source in (
        (Credentials(token_env="JUDGE_TOKEN"), "JUDGE_TOKEN"),
        (Credentials(token_file=path), str(path)),
    ):
        with pytest.raises(ValueError, match=source) as error:
            read_token(credentials)
        assert "s3cr3t" not in str(error.value)
        assert error.value.__cause__ is error.value.__context__ is None


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JUDGE_TOKEN", raising=False)
    with pytest.raises(ValueError, match="JUDGE_TOKEN is not set"):
        read_token(Credentials(token_env="JUDGE_TOKEN"))
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match=f"{path} cannot be read"):
            read_token(Credentials(token_file=path))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"s3cr3t\xff\xfe")
    with pytest.raises(ValueError, match="no bearer token") as error:
        read_token(Credentials(token_file=path))
    assert "s3cr3t" not in str(error.value)
