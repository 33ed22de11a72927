"""How a verifier calls judges over the network: whom it may call, how long it waits, what it does when they fail."""

import ipaddress
import re
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from configs.base import AbsolutePath, Section


class Credentials(Section):
    """Where a bearer token is read from, in each process that needs it; the token itself never stands in a config."""

    token_env: str | None = None
    """Name of the environment variable that holds the token; null asks for none."""
    token_file: AbsolutePath | None = None
    """File that holds the token and nothing else, instead of a variable."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.token_env is not None and self.token_file is not None:
            raise ValueError(f"token_env is {self.token_env} and token_file {self.token_file}; give one of them")
        return self


class Remote(Credentials):
    """Endpoints that answer alike, and the rules of calling them."""

    endpoints: tuple[str, ...] = ()
    """Base URLs, such as https://judge.example.org/v1; calls go to whichever is free. Nothing else is ever called."""
    private_hosts: tuple[str, ...] = ()
    """Hosts, addresses or networks (10.1.0.0/16) of private or loopback ranges that may be called, and without TLS; a host is
    written as in the endpoint."""
    ca_file: AbsolutePath | None = None
    """PEM file of certificate authorities to trust beside the system's."""
    concurrency: PositiveInt = 16
    """Calls in flight to one endpoint from one reward actor."""
    call_timeout: PositiveFloat = 60.0
    """Seconds for one attempt."""
    batch_timeout: PositiveFloat = 240.0
    """Seconds for all calls of one batch, retries included; what has no answer by then has failed."""
    max_attempts: PositiveInt = 4
    """Attempts of one call, the first included."""
    backoff: PositiveFloat = 0.5
    """Seconds before the second attempt; doubled for each further one, then drawn at random between half and all of it."""
    max_backoff: PositiveFloat = 30.0
    """Longest wait between attempts in seconds; where no endpoint may be tried within it (breakers open, Retry-After), the
    call has failed."""
    hedge_after: NonNegativeFloat = 0.0
    """Seconds after which a call without an answer is sent a second time, the first answer counting; 0 never hedges."""
    breaker_failures: PositiveInt = 5
    """Failures in a row after which an endpoint is left alone."""
    breaker_cooldown: PositiveFloat = 10.0
    """Seconds until one call tries it again."""
    max_answer_bytes: int = Field(default=1 << 20, ge=1024)
    """Largest answer that is read, in bytes."""

    @field_validator("endpoints")
    @classmethod
    def _are_urls(cls, endpoints: tuple[str, ...]) -> tuple[str, ...]:
        for url in endpoints:
            if not _is_plain(url):
                shown = scheme_and_host(url)
                raise ValueError(f"endpoint {shown!r} is no http(s)://host[:port][/base] without user, query and fragment")
        if len(set(endpoints)) < len(endpoints):
            raise ValueError(f"an endpoint stands twice in {list(endpoints)}; give each once")
        return endpoints

    @model_validator(mode="after")
    def _backs_off_upwards(self) -> Self:
        if self.max_backoff < self.backoff:
            raise ValueError(f"max_backoff is {self.max_backoff}, below backoff={self.backoff}; raise it")
        if self.batch_timeout < self.call_timeout:
            raise ValueError(f"batch_timeout is {self.batch_timeout}, below call_timeout={self.call_timeout}; raise it")
        return self

    def allows_private(self, host: str) -> bool:
        """Whether `host`, a name or an address, is named in private_hosts or lies in a network that is."""
        if host in self.private_hosts:
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        for named in self.private_hosts:
            try:
                network = ipaddress.ip_network(named, strict=False)
            except ValueError:
                continue  # a host name
            if address.version == network.version and address in network:
                return True
        return False


def scheme_and_host(url: str) -> str:
    """What messages quote of a URL that is refused: what stands before the host or behind it may be a secret."""
    scheme = re.match(r"\s*[a-z][a-z0-9+.-]*://", url, re.IGNORECASE)
    start = scheme[0] if scheme else ""
    return start + re.split(r"[/\\?#]", url.removeprefix(start).rpartition("@")[2])[0]


def _is_plain(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment or "@" in url)
