"""TLS with certificates of our own making: verification is always on, and ca_file only adds."""

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from configs.remote import Remote
from reward_server.remote.calls import Caller
from reward_server.remote.transport import trust
from tests.reward_server.remote.fakes import FakeNet, call, caller, echo, fake_judge
from unigrpo.types import ScoreFailure

Server = Callable[..., ssl.SSLContext]


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate(
    key: ec.EllipticCurvePrivateKey,
    subject: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *extensions: x509.ExtensionType,
    days: tuple[int, int] = (-1, 1),
) -> x509.Certificate:
    today = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name("a test's authority"))
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(today + timedelta(days=days[0])).not_valid_after(today + timedelta(days=days[1]))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
    return builder.sign(issuer_key, hashes.SHA256())


@pytest.fixture(scope="module")
def authority() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    return key, certificate(key, "a test's authority", key, x509.BasicConstraints(ca=True, path_length=None))


@pytest.fixture
def ca_file(tmp_path: Path, authority: tuple[ec.EllipticCurvePrivateKey, x509.Certificate]) -> Path:
    path = tmp_path / "ca.pem"
    path.write_bytes(authority[1].public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def server(tmp_path: Path, authority: tuple[ec.EllipticCurvePrivateKey, x509.Certificate]) -> Server:
    """Makes a server's TLS context for an address and a time."""

    def make(address: str = "127.0.0.1", days: tuple[int, int] = (-1, 1)) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        holder = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
        signed = certificate(key, "judge", authority[0], holder, days=days)
        plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path = tmp_path / "server.pem"
        path.write_bytes(
            signed.public_bytes(serialization.Encoding.PEM) + key.private_bytes(serialization.Encoding.PEM, *plain)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    return make


def test_a_known_authority_is_trusted(net: FakeNet, server: Server, ca_file: Path) -> None:
    with fake_judge(net, echo, tls=server()) as judge, caller(judge.url, ca_file=ca_file) as asks:
        assert judge.url.startswith("https")
        assert asks.ask([call("1"), call("2")]) == [1, 2]


@pytest.mark.parametrize(
    ("address", "days", "known", "reason"),
    [
        ("127.0.0.1", (-1, 1), False, "unable to get local issuer certificate"),
        ("127.0.0.9", (-1, 1), True, "IP address mismatch"),
        ("127.0.0.1", (-9, -1), True, "certificate has expired"),
        ("127.0.0.1", (1, 9), True, "not yet valid"),
    ],
)
def test_a_certificate_that_does_not_hold_ends_the_attempt(
    net: FakeNet, server: Server, ca_file: Path, address: str, days: tuple[int, int], known: bool, reason: str
) -> None:
    with fake_judge(net, echo, tls=server(address, days)) as judge:
        with caller(judge.url, max_attempts=1, ca_file=ca_file if known else None) as asks:
            [failure] = asks.ask([call()])
        assert not judge.seen
    assert isinstance(failure, ScoreFailure)
    assert failure.outage
    assert reason in failure.reason


def test_the_systems_authorities_stay(ca_file: Path) -> None:
    def known(remote: Remote) -> set[bytes]:
        return set(trust(remote).get_ca_certs(binary_form=True))

    assert len(known(Remote(ca_file=ca_file))) == len(known(Remote())) + 1
    assert known(Remote()) < known(Remote(ca_file=ca_file))


@pytest.mark.parametrize(
    "content", [None, b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_ca_file_without_certificates_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"ca\.pem holds no certificates"):
        Caller(Remote(endpoints=("https://judge.example.org",), ca_file=path))
