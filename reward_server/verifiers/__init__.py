"""One file a verifier, and the list of them."""

from collections.abc import Mapping
from typing import Any

from configs.reward import GenevalReward, RandomReward
from reward_server.verifiers.base import Verifier
from reward_server.verifiers.geneval import GenevalVerifier
from reward_server.verifiers.random import RandomVerifier

VERIFIERS: dict[str, type[Verifier]] = {"geneval": GenevalVerifier, "random": RandomVerifier}
"""The verifier of each `reward.kind`."""


def validate_metadata(config: GenevalReward | RandomReward, metadata: Mapping[str, Any]) -> None:
    """Raise ValueError for a prompt that the configured verifier could not judge fairly. Loads no model."""
    VERIFIERS[config.kind].validate_metadata(config, metadata)
