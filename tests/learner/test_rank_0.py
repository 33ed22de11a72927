"""What rank 0 does for all: it alone hashes and verifies, and a fault that it comes upon ends every rank."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from learner.checkpoint import verify
from learner.optimizer import Rank
from learner.start import Start
from tests.learner import two_ranks
from tests.learner.tiny import make_config, make_learner, save_tiny_model

pytestmark = pytest.mark.slow

FAULTS = ("damaged", "unreadable", "bug")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found, rank 0 first."""
    folder = tmp_path_factory.mktemp("rank_0")
    save_tiny_model(folder / "model")
    return two_ranks.run(_alone, folder)


def _alone(rank: Rank, folder: Path) -> dict[str, Any]:
    """How often this rank hashes and verifies, and what it hears of faults that only rank 0 comes upon."""
    config = make_config(folder / "model", folder, learner__zero_stage=3, learner__num_ranks=2)
    with (
        patch.object(Start, "hash", autospec=True, side_effect=Start.hash) as hashes,
        patch("learner.learner.verify", side_effect=verify) as verifies,
    ):
        learner = make_learner(config, rank)
        learner.save(1)
        assert learner.restore() == 1
    answer = {"calls": [hashes.call_count, verifies.call_count], "hash": learner._reference_hash}
    torch.distributed.barrier()
    if rank.rank == 0:
        path = folder / "checkpoints" / "step-000001" / "exp_avg.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    answer["damaged"] = _refusal(learner.restore)
    with patch("learner.learner.verify", side_effect=KeyError("bytes")):
        answer["bug"] = _refusal(learner.restore)
    with patch.object(Start, "hash", side_effect=OSError("the disk is gone")):
        answer["unreadable"] = _refusal(lambda: make_learner(config, rank))
    return answer


def _refusal(call: Callable[[], Any]) -> tuple[str, str]:
    """Kind and message of what a call raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()
    return type(caught.value).__name__, str(caught.value)


def test_rank_0_alone_hashes_and_verifies_and_tells_the_others(answers: list[dict[str, Any]]) -> None:
    first, second = answers
    assert (first["calls"], second["calls"]) == ([1, 1], [0, 0])
    assert second["hash"] == first["hash"]
    assert len(first["hash"]) == 64


def test_a_fault_that_rank_0_finds_ends_every_rank_with_its_message(answers: list[dict[str, Any]]) -> None:
    first, second = answers
    assert "exp_avg.safetensors has another checksum than when it was written; remove" in first["damaged"][1]
    assert [first[fault][0] for fault in FAULTS] == ["ValueError", "OSError", "KeyError"]
    assert [second[fault][0] for fault in FAULTS] == ["ValueError", "ValueError", "RuntimeError"]
    assert all(second[fault][1] == first[fault][1] for fault in FAULTS)
