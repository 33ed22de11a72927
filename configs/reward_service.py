"""The reward service: judges of their own, scaled apart from training. What `unigrpo reward serve` reads."""

from collections.abc import Iterable
from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from configs.base import Section
from configs.remote import Credentials
from configs.reward import CombinedReward, Reward, parts_of
from configs.roles import ClusterConfig
from configs.verifiers import Policy


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
        guarded = self.credentials.token_env or self.credentials.token_file
        if self.host not in ("127.0.0.1", "localhost", "::1") and not guarded:
            raise ValueError(f"others can reach host={self.host}; set credentials.token_env or credentials.token_file")
        return self

    @model_validator(mode="after")
    def _adds_scores(self) -> Self:
        if isinstance(self.reward, CombinedReward) and self.reward.combine == "advantages":
            raise ValueError(
                "reward.combine=advantages: a service sees pictures and not their groups, so it can only add scores; use "
                "combine: scores here, or serve each part from a service of its own and let the run combine one part of kind "
                "http a service with combine: advantages"
            )
        return self

    @model_validator(mode="after")
    def _every_key_counts(self) -> Self:
        useless = [f"reward.{key}" for key in given(self.reward, Policy.model_fields)]
        useless += [f"cluster.{key}" for key in given(self.cluster, ["call_timeout"])]
        for name, part in parts_of(self.reward).items():
            useless += [f"{key} of {name}" for key in given(part, ["num_workers"])]
            useless += [f"placement.{key} of {name}" for key in given(part.placement, ["strategy"])]
        if useless:
            raise ValueError(
                f"{', '.join(useless)}: no effect in a service, where replicas.least and replicas.most say how many judge, and "
                "callers what they do about failures; leave it out"
            )
        return self


def given(section: Section, keys: Iterable[str]) -> list[str]:
    """Those of `keys` that are not at their default."""
    return [key for key in keys if getattr(section, key) != type(section).model_fields[key].default]
