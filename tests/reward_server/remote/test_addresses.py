"""Endpoints that may not be called (refused when the caller is made) and names that lead where nobody may go."""

import asyncio
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest
from pydantic import ValidationError

from configs.remote import Remote
from reward_server.remote.addresses import GuardedResolver, base_url, is_public
from reward_server.remote.calls import Caller
from tests.reward_server.remote.fakes import FakeNet, call, caller, echo, fake_judge
from unigrpo.types import ScoreFailure

GETADDRINFO = socket.getaddrinfo

NOT_PUBLIC = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1"),
    *("172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1"),
    *("64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "2002:a00:1::1"),
    *("3fff::1", "5f00::1", "fc00::1", "fd12:3456::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1"),
]
PUBLIC = ["8.8.8.8", "93.184.216.34", "::ffff:8.8.8.8", "64:ff9b::808:808", "2606:4700:4700::1111", "2002:808:808::1"]

BAD_ENDPOINTS = {
    # Another spelling of an address that is not public, over TLS so that nothing else is wrong with it.
    "decimal": ("https://2130706433/v1", "127.0.0.1"),
    "octal": ("https://0177.0.0.1/v1", "127.0.0.1"),
    "octal whole": ("https://017700000001", "127.0.0.1"),
    "hexadecimal": ("https://0x7f000001", "127.0.0.1"),
    "hexadecimal part": ("https://0x7f.1", "127.0.0.1"),
    "short": ("https://127.1", "127.0.0.1"),
    "zero": ("https://0", "0.0.0.0"),
    "metadata": ("https://169.254.169.254/latest/meta-data", "not public"),
    "metadata decimal": ("https://2852039166/latest", "169.254.169.254"),
    "carrier": ("https://100.64.0.1", "not public"),
    "loopback 6": ("https://[::1]:8000", "not public"),
    "unspecified 6": ("https://[::]", "not public"),
    "mapped": ("https://[::ffff:127.0.0.1]", "not public"),
    "mapped long": ("https://[0:0:0:0:0:ffff:7f00:0001]", "not public"),
    "NAT64": ("https://[64:ff9b::7f00:1]", "not public"),
    "6to4": ("https://[2002:7f00:1::]", "not public"),
    "multicast": ("https://224.0.0.1", "not public"),
    "trailing dot": ("https://127.0.0.1.", "no IPv4 address"),
    "five numbers": ("https://1.2.3.4.5", "no IPv4 address"),
    "too large": ("https://256.256.256.256", "no IPv4 address"),
    # No TLS.
    "http public name": ("http://judge.example.org", "no TLS"),
    "http public address": ("http://8.8.8.8", "no TLS"),
    "http localhost": ("http://localhost:8000", "name localhost in private_hosts"),
    # Not a plain URL.
    "full-width": ("https://①②⑦.0.0.1", "plain ASCII"),
    "full-width dots": ("https://127。0。0。1", "plain ASCII"),
    "unicode name": ("https://jüdge.example", "plain ASCII"),
    "percent in host": ("https://judge%2eexample.org", "plain ASCII"),
    "zone": ("https://[fe80::1%25eth0]", "plain ASCII"),
    "user": ("https://me@judge.example.org", "endpoint"),
    "empty user": ("https://@judge.example.org", "endpoint 'https://judge.example.org' is no http"),
    "user that looks like a host": ("https://judge.example.org:443@127.0.0.1", "endpoint"),
    "backslash": ("https://judge.example.org\\@127.0.0.1", "endpoint"),
    "backslash path": ("https://judge.example.org/\\127.0.0.1", "plain ASCII"),
    "query": ("https://judge.example.org/v1?x=1", "endpoint"),
    "empty query": ("https://judge.example.org/v1?", "plain ASCII"),
    "fragment": ("https://judge.example.org/v1#x", "endpoint"),
    "tab": ("https://judge\t.example.org", "plain ASCII"),
    "line break": ("https://judge.example.org/\r\nX-Header: 1", "plain ASCII"),
    "blank before": (" https://judge.example.org", "plain ASCII"),
    "blank in host": ("https://judge example.org", "plain ASCII"),
    "empty label": ("https://judge..example.org", "plain ASCII"),
    "long label": (f"https://{64 * 'a'}.example.org", "plain ASCII"),
    "no host": ("https:///v1", "endpoint"),
    "only a port": ("https://:443", "endpoint"),
    "port 0": ("https://judge.example.org:0", "port 0"),
    "port too large": ("https://judge.example.org:99999", "65535"),
    "two ports": ("https://judge.example.org:80:90", "plain ASCII"),
    "open bracket": ("https://[::1", "endpoints"),
    "ftp": ("ftp://judge.example.org", "endpoint"),
    "file": ("file:///etc/passwd", "endpoint"),
    "gopher": ("gopher://127.0.0.1:70", "endpoint"),
    "no scheme": ("judge.example.org", "endpoint"),
    "empty": ("", "endpoint"),
}


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_addresses_that_are_not_public(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_addresses_that_are_public(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize(("endpoint", "reason"), BAD_ENDPOINTS.values(), ids=BAD_ENDPOINTS.keys())
def test_bad_endpoints_are_refused_before_anything_is_sent(endpoint: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace(".", r"\.")):
        Caller(Remote(endpoints=(endpoint,)))


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://user:sekret@judge.test/v1",
        "https://user:se/kret@judge.test",
        "https://:sekret@judge.test",
        "https://sekret@judge.test",
        "https://user:sekret@user:sekret@judge.test",
        "https://user:sekret@judge.test\\sekret",
        "https://judge.test/?key=sekret",
        "https://judge.test/v1#sekret",
        "https://user:sekret@judge.test①",
        "https://user:sekret@[judge.test",
        "user:sekret@judge.test",
    ],
)
def test_a_refused_endpoint_is_quoted_without_what_may_be_secret(endpoint: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Remote(endpoints=(endpoint,))
    [error] = refused.value.errors()
    with pytest.raises(ValueError, match="plain ASCII") as refused_later:
        base_url(endpoint, Remote())
    for said in (error["msg"], str(refused_later.value)):
        assert "judge.test" in said
        assert "kret" not in said
        assert "user:" not in said


@pytest.mark.parametrize(
    ("endpoint", "named", "url"),
    [
        ("https://judge.example.org", (), "https://judge.example.org"),
        ("https://Judge.Example.org:8443/v1/", (), "https://judge.example.org:8443/v1"),
        ("https://8.8.8.8/v1", (), "https://8.8.8.8/v1"),
        ("https://134744072", (), "https://8.8.8.8"),
        ("https://[2606:4700:4700::1111]:9", (), "https://[2606:4700:4700::1111]:9"),
        ("http://localhost:80/v1", ("localhost",), "http://localhost/v1"),
        ("http://2130706433:8000", ("127.0.0.1",), "http://127.0.0.1:8000"),
        ("http://10.1.2.3", ("10.1.0.0/16",), "http://10.1.2.3"),
        ("http://[::1]:8000", ("::1",), "http://[::1]:8000"),
        ("https://[::ffff:10.1.2.3]", ("10.1.0.0/16",), "https://[::ffff:a01:203]"),
    ],
)
def test_good_endpoints(endpoint: str, named: tuple[str, ...], url: str) -> None:
    assert str(base_url(endpoint, Remote(endpoints=(endpoint,), private_hosts=named))) == url


def test_naming_one_private_host_allows_no_other() -> None:
    for endpoint in ("http://10.2.0.1", "https://10.2.0.1", "http://127.0.0.1", "http://judge.example.org"):
        with pytest.raises(ValueError, match="private_hosts"):
            Caller(Remote(endpoints=(endpoint,), private_hosts=("10.1.0.0/16", "::1")))


def resolving(*answers: list[str]) -> Callable[..., list[Any]]:
    """A getaddrinfo that gives these addresses, the last ones again and again; numbers are read as ever."""
    left = list(answers)

    def getaddrinfo(host: str, port: int, *arguments: Any, flags: int = 0, **named: Any) -> list[Any]:
        if flags & socket.AI_NUMERICHOST:
            return GETADDRINFO(host, port, flags=flags, **named)
        found = left.pop(0) if len(left) > 1 else left[0]
        return [entry for address in found for entry in GETADDRINFO(address, port, type=socket.SOCK_STREAM)]

    return getaddrinfo


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "0.0.0.0", "169.254.169.254", "100.64.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "fd12:3456::1"],
)
def test_a_name_that_leads_to_a_private_address_is_not_connected_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolving([address]))
    with caller("https://judge.test", max_attempts=1, private_hosts=()) as asks:
        [failure] = asks.ask([call()])
    assert isinstance(failure, ScoreFailure)
    assert failure.outage
    assert f"judge.test is at {address}, which is not public; name judge.test in private_hosts" in failure.reason


def test_one_private_address_among_public_ones_is_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve() -> list[Any]:
        return await GuardedResolver(Remote(private_hosts=("10.0.0.0/8",)).allows_private).resolve("judge.test", 443)

    monkeypatch.setattr(socket, "getaddrinfo", resolving(["8.8.8.8", "10.1.2.3"], ["8.8.8.8", "127.0.0.1"]))
    assert [found["host"] for found in asyncio.run(resolve())] == ["8.8.8.8", "10.1.2.3"]
    with pytest.raises(OSError, match=r"judge\.test is at 127\.0\.0\.1"):
        asyncio.run(resolve())


def test_a_name_that_changes_its_mind_gains_nothing(net: FakeNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checked when connected to, each time anew: the second answer is another machine, and stays uncalled."""
    with fake_judge(net, echo) as judge, fake_judge(net, echo, host="127.0.0.2", port=judge.port) as victim:
        monkeypatch.setattr(socket, "getaddrinfo", resolving(["127.0.0.1"], ["127.0.0.2"]))
        allowed = ("judge.test",)
        with caller(f"http://judge.test:{judge.port}", max_attempts=1, private_hosts=allowed) as asks:
            assert asks.ask([call("1")]) == [1]
            assert asks.ask([call("2")]) == [2]  # the name itself is named: wherever it leads
        assert (len(judge.seen), len(victim.seen)) == (1, 1)
        monkeypatch.setattr(socket, "getaddrinfo", resolving(["127.0.0.1"], ["127.0.0.2"]))
        with caller(f"https://judge.test:{judge.port}", max_attempts=1) as asks:
            [spoke_no_tls] = asks.ask([call("3")])
            [refused] = asks.ask([call("4")])
        assert isinstance(spoke_no_tls, ScoreFailure)
        assert isinstance(refused, ScoreFailure)
        assert "127.0.0.1:" not in refused.reason
        assert "judge.test is at 127.0.0.2, which is not public" in refused.reason
        assert "SSL" in spoke_no_tls.reason
        assert (len(judge.seen), len(victim.seen)) == (1, 1)


def test_a_name_without_an_address_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(host: str, *arguments: Any, **named: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with caller("https://judge.test", max_attempts=2) as asks:
        [failure] = asks.ask([call()])
        assert asks.num_retries == 1
    assert isinstance(failure, ScoreFailure)
    assert failure.outage
    assert "Name or service not known" in failure.reason
