"""One file a verifier, and the list of them."""

from collections.abc import Mapping
from typing import Any

from configs.reward import CombinedReward, Reward, parts_of
from reward_server.verifiers.base import Verifier
from reward_server.verifiers.differentiable import DifferentiableVerifier
from reward_server.verifiers.exam import ExamVerifier
from reward_server.verifiers.geneval import GenevalVerifier
from reward_server.verifiers.http import HttpVerifier
from reward_server.verifiers.ocr import OcrVerifier
from reward_server.verifiers.preference import PreferenceVerifier
from reward_server.verifiers.python import PythonVerifier
from reward_server.verifiers.random import RandomVerifier
from reward_server.verifiers.vlm_judge import VlmJudgeVerifier

VERIFIERS: dict[str, type[Verifier]] = {
    "differentiable": DifferentiableVerifier,
    "exam": ExamVerifier,
    "geneval": GenevalVerifier,
    "http": HttpVerifier,
    "ocr": OcrVerifier,
    "preference": PreferenceVerifier,
    "python": PythonVerifier,
    "random": RandomVerifier,
    "vlm_judge": VlmJudgeVerifier,
}
"""The verifier of each `reward.kind`."""


def validate_metadata(reward: Reward, metadata: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the part, for a prompt that a verifier of the reward could not judge fairly. Loads no model."""
    for name, part in parts_of(reward).items():
        try:
            VERIFIERS[part.kind].validate_metadata(part, metadata)
        except ValueError as error:
            raise ValueError(f"part {name}: {error}" if isinstance(reward, CombinedReward) else str(error)) from error
