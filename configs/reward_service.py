"""The reward service: judges of their own, scaled apart from training. What `unigrpo reward serve` reads."""

from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from configs.base import Section
from configs.remote import Credentials
from configs.reward import Reward, parts_of
from configs.roles import ClusterConfig


class Replicas(Section):
    """How many replicas judge, for each verifier."""

    least: PositiveInt = 1
    """Replicas that are always there."""
    most: PositiveInt = 1
    """Replicas at the height of the load."""
    target_ongoing: PositiveFloat = 2.0
    """Requests at work on a replica that Ray Serve aims at; more start a further replica."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.most < self.least:
            raise ValueError(f"replicas.most is {self.most}, below replicas.least={self.least}; raise it")
        return self


class Limits(Section):
    """What a request may hold; anything larger is refused before it is decoded."""

    body_bytes: int = Field(default=256 << 20, ge=1 << 10)
    """Bytes of one request's body."""
    image_bytes: int = Field(default=32 << 20, ge=1 << 10)
    """Bytes of one encoded picture."""
    image_pixels: PositiveInt = 4096 * 4096
    """Pixels of one picture, height times width."""
    items: PositiveInt = 256
    """Pictures of one request."""
    metadata_bytes: int = Field(default=1 << 20, ge=1 << 10)
    """Bytes of a request's JSON part."""
    waiting_requests: PositiveInt = 2048
    """Requests that wait for a replica; a further one is told to come back later (503 with Retry-After)."""


class RewardServiceConfig(Section):
    task: Literal["reward_service"] = "reward_service"
    reward: Reward
    """What judges. Placement holds for each replica; numbers of workers come from `replicas`."""
    host: str = "127.0.0.1"
    """Address to listen at; anything but loopback needs a token."""
    port: int = Field(default=8200, ge=1, le=65535)
    """Port to listen at."""
    credentials: Credentials = Credentials()
    """The bearer token that callers must send; without one the service listens on loopback only."""
    replicas: Replicas = Replicas()
    limits: Limits = Limits()
    request_timeout: PositiveFloat = 300.0
    """Seconds until a request that has no verdicts is answered with a failure."""
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _is_guarded(self) -> Self:
        if self.host not in ("127.0.0.1", "localhost", "::1") and not (
            self.credentials.token_env or self.credentials.token_file
        ):
            raise ValueError(f"host is {self.host}, which others can reach; set credentials.token_env or credentials.token_file")
        return self

    @model_validator(mode="after")
    def _replicas_decide(self) -> Self:
        if sized := [name for name, part in parts_of(self.reward).items() if part.num_workers != 1]:
            raise ValueError(f"num_workers of {', '.join(sized)} has no effect in a service; set replicas.least and replicas.most")
        return self
