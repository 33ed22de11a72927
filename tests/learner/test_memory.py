"""A gigabyte onto two ranks: what each holds while it loads and while it saves.

A rank's *share* is what it keeps for as long as it learns: its part of policy and reference in the compute dtype, of float32
masters, of both float32 moments, and of the float32 gradient that DeepSpeed sets aside when it starts (at stage 3).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from learner.optimizer import Rank
from tests.learner import two_ranks
from tests.learner.memory import Rise, save_large_model
from tests.learner.standin import make_engine
from tests.learner.tiny import make_config, make_learner
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.models.bagel.model import Bagel

pytestmark = pytest.mark.slow

CASES: Mapping[str, Mapping[str, Any]] = {
    "everything": {"learner__zero_stage": 3, "learner__dtype": "bfloat16"},
    "one expert": {
        "learner__zero_stage": 3,
        "kind": "flow_grpo",
        "algorithm__regulariser": {"kind": "none"},
    },
    "replicas": {"learner__zero_stage": 1, "algorithm__regulariser": {"kind": "none"}},
}
"""Stage 3 with a reference; stage 3 where the rest is frozen; stage 1."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("memory")


@pytest.fixture(scope="module")
def large(folder: Path) -> BagelConfig:
    config = save_large_model(folder)
    assert (folder / "model" / "ema.safetensors").stat().st_size >= 1 << 30
    return config


def _load_and_save(rank: Rank, folder: Path) -> dict[str, int]:
    make_engine(3, rank)  # what DeepSpeed imports and compiles when it is first used is no part of a model
    config = make_config(folder.parent / "model", folder, learner__num_ranks=2, **json.loads((folder / "case").read_text()))
    with Rise() as loading:
        learner = make_learner(config, rank)
    with Rise() as saving:
        learner.save(1)
    return {"loading": loading.peak, "kept": loading.kept, "saving": saving.peak}


def measured(case: str, folder: Path) -> list[dict[str, int]]:
    (folder / case).mkdir()
    (folder / case / "case").write_text(json.dumps(CASES[case]))
    answers: list[dict[str, int]] = two_ranks.run(_load_and_save, folder / case, timeout=600)
    print(case, answers)
    return answers


def sizes(config: BagelConfig) -> tuple[int, int, int, int]:
    """Elements of all parameters, of both experts, of the generation expert, and of the largest."""
    with torch.device("meta"):
        model = Bagel(config)
    everything = sum(parameter.numel() for parameter in model.parameters())
    eyes = sum(parameter.numel() for _, parameter in model.vision_parameters())
    painter = sum(parameter.numel() for _, parameter in model.generation_parameters())
    return everything, everything - eyes, painter, max(map(torch.numel, model.parameters()))


def test_no_rank_holds_more_than_its_share(large: BagelConfig, folder: Path) -> None:
    everything, trained, _, largest = sizes(large)
    share = 2 * (2 * everything) // 2 + (4 + 8 + 4) * trained // 2
    for answer in measured("everything", folder):
        assert answer["loading"] <= 1.2 * share + 4 * largest
        assert answer["saving"] <= 0.2 * (4 + 8) * trained


def test_weights_stream_into_their_partitions(large: BagelConfig, folder: Path) -> None:
    everything, _, trained, largest = sizes(large)
    share = (4 * everything + (4 + 8 + 4) * trained) // 2
    for answer in measured("one expert", folder):
        assert answer["loading"] <= 1.2 * share + 4 * largest


def test_a_replica_is_held_once(large: BagelConfig, folder: Path) -> None:
    everything, trained, _, largest = sizes(large)
    share = 4 * everything + (4 + 8) * trained // 2
    for answer in measured("replicas", folder):
        assert answer["loading"] <= 1.2 * share + 4 * largest
        assert answer["saving"] <= 0.2 * (4 + 8) * trained
