"""Which endpoints may be called, and which addresses connected to.

A name is resolved anew for each connection and the address that was checked is the one connected to, so a name that changes its
mind between check and use (DNS rebinding) gains nothing.
"""

import re
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from configs.remote import Remote, scheme_and_host

Address = IPv4Address | IPv6Address

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_ENDPOINT = re.compile(
    rf"https?://(?:{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?(?:/[a-z0-9._~%!$&'()*+,;=:-]*)*", re.IGNORECASE
)
_NAT64 = ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ip_network("2000::/3")
_RESERVED = tuple(map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")))
"""Ranges for protocols and documentation that some versions of Python call global."""


def is_public(address: Address) -> bool:
    """Whether an address is one that the whole Internet routes to one machine; an IPv6 address that carries an IPv4 address
    (mapped, NAT64, 6to4) is judged by that one."""
    address = _carried(address)
    if any(address.version == network.version and address in network for network in _RESERVED):
        return False
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return address.is_global and not address.is_multicast


def _carried(address: Address) -> Address:
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def may_connect(host: str, address: Address, allows_private: Callable[[str], bool]) -> bool:
    """Whether `address`, which `host` stands for, is public or named."""
    return is_public(address) or any(map(allows_private, (host, str(address), str(_carried(address)))))


def base_url(endpoint: str, remote: Remote) -> URL:
    """The URL of an endpoint, an address in any spelling (decimal, octal, hexadecimal, short) written out.

    Raises ValueError for what is no plain URL, for an address that may not be connected to, and for http without TLS to a host
    that is not named in private_hosts.
    """
    if not _ENDPOINT.fullmatch(endpoint):
        shown = scheme_and_host(endpoint)
        raise ValueError(f"endpoint {shown!r} is no http(s)://host[:port][/base] in plain ASCII; write it so")
    url = URL(endpoint.rstrip("/"))
    host = url.host or ""
    if url.port == 0:
        raise ValueError(f"endpoint {endpoint!r} has port 0; give the port it listens at")
    address = _literal(host)
    if address is None and host.rstrip(".").rpartition(".")[2].isdigit():
        raise ValueError(f"endpoint {endpoint!r} names no IPv4 address; write four numbers of 0 to 255")
    named = remote.allows_private(host) or (address is not None and remote.allows_private(str(_carried(address))))
    if address is not None and not may_connect(host, address, remote.allows_private):
        raise ValueError(f"endpoint {endpoint!r} is the address {address}, which is not public; name it in private_hosts")
    if url.scheme == "http" and not named:
        raise ValueError(
            f"endpoint {endpoint!r} has no TLS; use https, or name {host} in private_hosts if its network is private"
        )
    return url if address is None else url.with_host(str(address))


def _literal(host: str) -> Address | None:
    """The address that the system reads `host` as without asking anybody; None for a name."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return None
    return ip_address(found[0][4][0])


class GuardedResolver(AbstractResolver):
    """The system's resolver; a name with any address that may not be connected to does not resolve."""

    def __init__(self, allows_private: Callable[[str], bool]) -> None:
        self._allows_private = allows_private
        self._system = ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """Raises OSError for a name that has no address, or one that is neither public nor named in private_hosts."""
        found = await self._system.resolve(host, port, family)
        for result in found:
            if not may_connect(host, ip_address(result["host"]), self._allows_private):
                raise OSError(None, f"{host} is at {result['host']}, which is not public; name {host} in private_hosts")
        return found

    async def close(self) -> None:
        await self._system.close()
