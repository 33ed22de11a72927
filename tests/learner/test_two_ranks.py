"""Two ranks against one: every stage's arithmetic, state, uneven shares and checkpoints, in one pair of processes."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from configs.load import START_FOLDER
from learner.learner import Learner
from learner.optimizer import Rank
from learner.zero import KINDS, Kind
from tests.learner import two_ranks
from tests.learner.standin import LEARNING_RATES, StandIn, deviations, flat_of, make_engine, micro_batches
from tests.learner.test_checkpoint import files_up_to
from tests.learner.test_sft import examples, parsed
from tests.learner.test_zero import NORM_TOLERANCE, PARAMETER_TOLERANCE
from tests.learner.tiny import VOCAB, make_config, make_learner, sample_step, save_tiny_model
from unigrpo.buckets import unpack
from unigrpo.models.bagel.transformer import Layer

pytestmark = pytest.mark.slow

ADVANTAGES = (1.0, -1.0, 0.5, -0.5, 0.0, 0.3, -0.3, 1.2)
LEARNER_STAGES = (0, 1, 3)
SAVING_STAGES = (1, 3)
LENGTHS = (1, 1, 24, 30)
VARIED: dict[str, Any] = {
    "rollout__images_per_thought": 2,
    "algorithm__guidance": {"text_scale": 3.0, "interval": [0.9, 1.0]},
    "algorithm__window__placement": "sample",
    "algorithm__regulariser": {"kind": "adaptive_velocity_mse", "weight": 1e-3},
}
TAUGHT = (None, (8,), tuple(range(24)), tuple(range(30)))

State = dict[Kind, dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two_ranks")
    save_tiny_model(folder / "model")
    return folder


@pytest.fixture(scope="module")
def answers(folder: Path) -> list[dict[str, Any]]:
    """What each rank found, rank 0 first."""
    return two_ranks.run(_everything, folder)


def _everything(rank: Rank, folder: Path) -> dict[str, Any]:
    return {
        "parity": [(stage, *deviations(stage, rank, flow_first=first)) for stage in range(4) for first in (False, True)],
        "state": {stage: _state(stage, rank) for stage in SAVING_STAGES},
        "update": {stage: _uneven_update(stage, rank, folder) for stage in LEARNER_STAGES},
        "varied": {stage: _varied_update(stage, rank, folder) for stage in SAVING_STAGES},
        "reference": {stage: _reference(stage, rank) for stage in (2, 3)},
        "recomputed": _recomputed(rank, folder),
        "frozen": {stage: _frozen(stage, rank) for stage in (1, 3)},
        "full disk": _full_disk(rank, folder),
    }


def _reference(stage: int, rank: Rank) -> dict[str, Any]:
    """What the reference answers, and the elements of it that this rank holds afterwards."""
    reference = StandIn().to("meta")
    model, engine = make_engine(stage, rank, reference=reference)
    engine.update(micro_batches(model, 0, range(rank.rank, 4, rank.world_size), flow_first=False), LEARNING_RATES)
    hidden = engine.compute(lambda: reference.hidden(torch.arange(12).view(2, 6)))
    held = [each for parameter in reference.parameters() for each in (parameter, getattr(parameter, "ds_tensor", None))]
    return {"hidden": hidden.tolist(), "held": sum(each.numel() for each in held if each is not None)}


def _recomputed(rank: Rank, folder: Path) -> dict[str, Any]:
    """First moments, a tenth of the gradient, with and without recomputed layers; and how often a layer ran."""
    moments, calls = [], []
    for recomputes in (False, True):
        config = make_config(
            folder / "model",
            folder / "recomputed",
            learner__zero_stage=3,
            learner__num_ranks=2,
            learner__activation_checkpointing=recomputes,
        )
        samples = sample_step(config, 0, ADVANTAGES)[rank.rank :: 2]
        learner = make_learner(config, rank)
        with patch.object(Layer, "forward", autospec=True, side_effect=Layer.forward) as forward:
            learner.update(0, [samples])
        moments.append({name: value.clone() for name, value in learner._engine.state("exp_avg")})
        calls.append(forward.call_count)
    assert_close(moments[1], moments[0], rtol=0, atol=0)
    return {"calls": calls, "largest": max(float(value.abs().max()) for value in moments[0].values())}


def _frozen(stage: int, rank: Rank) -> dict[str, Any]:
    """Elements of moments that this rank holds when the generation expert alone is trained, and what has moved."""
    model, engine = make_engine(stage, rank, trains=("generation",))
    start = {name: value.clone() for name, value in engine.parameters()}
    engine.update(micro_batches(model, 0, range(rank.rank, 4, rank.world_size), flow_first=False), LEARNING_RATES)
    held = sum(state["exp_avg"].numel() for state in engine._adamw.state.values())
    return {"held": held, "moved": [name for name, value in engine.parameters() if not torch.equal(value, start[name])]}


def _state(stage: int, rank: Rank) -> State:
    """Masters and moments after two updates of the stand-in, having gone through a fresh engine."""
    model, engine = make_engine(stage, rank)
    for step in range(2):
        losses = micro_batches(model, step, range(rank.rank, 4, rank.world_size), flow_first=False)
        engine.update(losses, LEARNING_RATES)
    saved = {kind: {name: value.clone() for name, value in engine.state(kind)} for kind in KINDS}
    _, fresh = make_engine(stage, rank)
    for kind in KINDS:
        fresh.load(kind, flat_of(saved[kind]))
    return {kind: {name: value.tolist() for name, value in fresh.state(kind)} for kind in KINDS}


def _uneven_update(stage: int, rank: Rank, folder: Path) -> dict[str, Any]:
    """Six samples on one rank and two on the other, so that one of them fills up with dummies; saved and restored."""
    config = make_config(folder / "model", folder / f"stage{stage}", learner__zero_stage=stage, learner__num_ranks=2)
    samples = sample_step(config, 0, ADVANTAGES)
    share = samples[:6] if rank.rank == 0 else samples[6:]
    learner = make_learner(config, rank)
    metrics = learner.update(0, [share])
    weights = _published(learner)
    if stage in SAVING_STAGES:
        learner.save(1)
        torch.distributed.barrier()
        resumed = make_learner(config, rank)
        assert resumed.restore() == 1
        assert_close(_published(resumed), weights, rtol=0, atol=0)
    return {"metrics": metrics, "weights": {name: value.tolist() for name, value in weights.items()}}


def _varied_update(stage: int, rank: Rank, folder: Path) -> list[dict[str, float]]:
    """Two steps of guided paintings, two of a thought, at windows of their own, and a weight that adapts; one rank fills up."""
    config = make_config(folder / "model", folder / "varied", learner__zero_stage=stage, learner__num_ranks=2, **VARIED)
    learner = make_learner(config, rank)
    rows = []
    for step in range(2):
        samples = sample_step(config, step, ADVANTAGES)
        rows.append(learner.update(step, [samples[:6] if rank.rank == 0 else samples[6:]]))
    return rows


def _published(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for bucket in learner.publish(1) for name, tensor in unpack(bucket)}


def test_every_stage_agrees_with_plain_adamw(answers: list[dict[str, Any]]) -> None:
    for answer in answers:
        assert len(answer["parity"]) == 8
        for stage, parameters, norms in answer["parity"]:
            assert parameters < PARAMETER_TOLERANCE[stage]
            assert norms < NORM_TOLERANCE


def test_state_does_not_depend_on_the_number_of_ranks(answers: list[dict[str, Any]], rank: Rank) -> None:
    alone = _state(0, rank)
    for answer in answers:
        for saved in answer["state"].values():
            for kind in KINDS:
                for name, value in alone[kind].items():
                    assert_close(torch.tensor(saved[kind][name]), torch.tensor(value), rtol=1e-4, atol=1e-5)


def test_uneven_shares_do_not_change_the_update(answers: list[dict[str, Any]], folder: Path, rank: Rank) -> None:
    learner = make_learner(config := make_config(folder / "model", folder / "alone"), rank)
    expected = learner.update(0, [sample_step(config, 0, ADVANTAGES)])
    first, second = (answer["update"] for answer in answers)
    for stage in map(str, LEARNER_STAGES):
        metrics, others = first[stage]["metrics"], second[stage]["metrics"]
        assert all(metrics[name] == others[name] for name in metrics if not name.startswith("term_norm/"))
        assert metrics["on_policy/text"] == metrics["on_policy/flow"] == 0.0
        for name in ("loss/text", "loss/flow", "grad_norm", "grad_norm/text", "grad_norm/generation", "advantage/rms"):
            assert metrics[name] == pytest.approx(expected[name], rel=1e-5)
        got = {name: torch.tensor(value) for name, value in first[stage]["weights"].items()}
        assert_close(got, _published(learner), rtol=0, atol=2e-4)
        assert second[stage]["weights"] == {}, "rank 0 alone publishes"


def test_guided_nested_paintings_are_learned_from_as_on_one_rank(
    answers: list[dict[str, Any]], folder: Path, rank: Rank
) -> None:
    learner = make_learner(config := make_config(folder / "model", folder / "varied alone", **VARIED), rank)
    alone = [learner.update(step, [sample_step(config, step, ADVANTAGES)]) for step in range(2)]
    for answer in answers:
        for rows in answer["varied"].values():
            for got, expected in zip(rows, alone, strict=True):
                assert got["on_policy/text"] == got["on_policy/flow"] == 0.0
                for name, value in expected.items():
                    if name.startswith(("loss/", "grad_norm", "flow/velocity", "flow/regulariser", "mismatch/")):
                        assert got[name] == pytest.approx(value, rel=1e-4, abs=1e-7), name


def _full_disk(rank: Rank, folder: Path) -> list[str | None]:
    """What came of three checkpoints, the disk of rank 0 being full during the second."""
    config = make_config(folder / "model", folder / "full", learner__zero_stage=3, learner__num_ranks=2)
    learner = make_learner(config, rank)
    outcomes: list[str | None] = []
    for step, num_bytes in ((1, 1 << 30), (2, 20_000), (3, 1 << 30)):
        outcome = None
        with files_up_to(num_bytes):
            try:
                learner.save(step)
            except OSError as error:
                outcome = str(error)
        outcomes.append(outcome)
    return outcomes


def test_a_full_disk_on_rank_0_holds_up_nobody(answers: list[dict[str, Any]], folder: Path) -> None:
    first, second = (answer["full disk"] for answer in answers)
    assert first[0] is None is first[2]
    assert "step-000002 could not be saved" in first[1]
    assert second == [None, None, None]
    assert (folder / "full" / "checkpoints" / "step-000003" / "manifest.json").is_file()


def test_the_reference_is_cut_up_like_the_policy(answers: list[dict[str, Any]]) -> None:
    expected = StandIn().hidden(torch.arange(12).view(2, 6)).tolist()
    whole_size = sum(parameter.numel() for parameter in StandIn().parameters())
    for answer in answers:
        assert answer["reference"]["2"] == {"hidden": expected, "held": whole_size}
        assert answer["reference"]["3"]["hidden"] == expected
        assert whole_size / 2 <= answer["reference"]["3"]["held"] <= whole_size / 2 + len(list(StandIn().parameters()))


def test_recomputed_layers_give_the_same_gradient_to_the_bit(answers: list[dict[str, Any]]) -> None:
    for answer in answers:
        kept, again = answer["recomputed"]["calls"]
        assert again > kept
        assert answer["recomputed"]["largest"] > 1e-4


def test_what_is_frozen_is_in_no_ranks_optimizer(answers: list[dict[str, Any]]) -> None:
    names = StandIn().groups()["generation"]
    num_elements = sum(StandIn().get_parameter(name).numel() for name in names)
    for answer in answers:
        for found in answer["frozen"].values():
            assert found["moved"] == names
            assert num_elements / 2 <= found["held"] <= num_elements / 2 + len(names)


def _uneven_pieces(rank: Rank, folder: Path) -> dict[str, Any]:
    """Short thoughts on one rank and long ones on the other, five tokens' logits at once: one and a dozen pieces' worth."""
    with patch("learner.policy.LOGITS_AT_ONCE", 5 * VOCAB):
        config = make_config(folder / "model", folder / "pieces", learner__zero_stage=3, learner__num_ranks=2)
        samples = sample_step(config, 0, ADVANTAGES[:4], LENGTHS)
        share = samples[:2] if rank.rank == 0 else samples[2:]
        reinforced = make_learner(config, rank).update(0, [share])
        tuning = parsed(folder / "sft", zero_stage=3, num_ranks=2)
        taught = examples(TAUGHT)[:2] if rank.rank == 0 else examples(TAUGHT)[2:]
        imitated = make_learner(tuning, rank).update(0, [taught])
    return {"reinforced": reinforced, "imitated": imitated}


def test_ranks_with_thoughts_of_other_lengths_keep_step(folder: Path, rank: Rank) -> None:
    save_tiny_model(folder / "sft" / START_FOLDER)
    answers = two_ranks.run(_uneven_pieces, folder)
    config = make_config(folder / "model", folder / "whole")
    samples = sample_step(config, 0, ADVANTAGES[:4], LENGTHS)
    expected = {
        "reinforced": make_learner(config, rank).update(0, [samples]),
        "imitated": make_learner(parsed(folder / "sft"), rank).update(0, [examples(TAUGHT)]),
    }
    for answer in answers:
        for task, metrics in expected.items():
            for name in ("loss/text", "loss/flow", "grad_norm/text", "grad_norm/generation"):
                assert answer[task][name] == pytest.approx(metrics[name], rel=1e-5)
        assert answer["reinforced"]["on_policy/text"] == 0.0


def test_checkpoints_are_what_one_rank_would_write(answers: list[dict[str, Any]], folder: Path, rank: Rank) -> None:
    learner = make_learner(config := make_config(folder / "model", folder / "saved alone"), rank)
    learner.update(0, [sample_step(config, 0, ADVANTAGES)])
    learner.save(1)
    for name in ("policy/ema.safetensors", "exp_avg.safetensors", "exp_avg_sq.safetensors"):
        alone = load_file(folder / "saved alone" / "checkpoints" / "step-000001" / name)
        for stage in SAVING_STAGES:
            got = load_file(folder / f"stage{stage}" / "checkpoints" / "step-000001" / name)
            assert_close(got, alone, rtol=1e-3, atol=2e-4)
