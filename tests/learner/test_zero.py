"""DeepSpeed against plain torch AdamW: every stage, one and two ranks, text or flow first, and state in and out."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from learner.optimizer import Rank
from learner.zero import Kind, ZeroEngine
from tests.learner.standin import (
    ADAMW,
    LEARNING_RATES,
    TIMEOUT,
    StandIn,
    deviations,
    flat_of,
    make_engine,
    micro_batches,
    plain_adamw,
)

PARAMETER_TOLERANCE = {0: 1e-5, 1: 1e-5, 2: 1e-5, 3: 2e-4}
NORM_TOLERANCE = 1e-5
KINDS: tuple[Kind, ...] = ("master", "exp_avg", "exp_avg_sq")


def snapshot(engine: ZeroEngine) -> dict[Kind, dict[str, Tensor]]:
    return {kind: {name: value.clone() for name, value in engine.state(kind)} for kind in KINDS}


def train(model: StandIn, engine: ZeroEngine, steps: range, rank: Rank) -> None:
    indices = range(rank.rank, 4, rank.world_size)
    for step in steps:
        engine.update(micro_batches(model, step, indices, flow_first=False), LEARNING_RATES)


def test_the_yardstick_moves() -> None:
    start = dict(StandIn().named_parameters())
    assert all((value - start[name]).abs().max() >= 1e-3 for name, value in plain_adamw()[0].items())


@pytest.mark.parametrize("flow_first", [False, True])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_one_rank_agrees_with_plain_adamw(stage: int, flow_first: bool, rank: Rank) -> None:
    parameters, norms = deviations(stage, rank, flow_first=flow_first)
    assert parameters < PARAMETER_TOLERANCE[stage]
    assert norms < NORM_TOLERANCE


def test_a_stale_gradient_is_seen_by_the_comparison(rank: Rank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ZeroEngine, "_clear_stale_gradients", lambda engine: None)
    parameters, norms = deviations(3, rank, flow_first=False)
    assert parameters > PARAMETER_TOLERANCE[3]
    assert norms > NORM_TOLERANCE


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_restored_state_continues_bit_for_bit(stage: int, rank: Rank) -> None:
    model, engine = make_engine(stage, rank)
    train(model, engine, range(2), rank)
    saved, count = snapshot(engine), engine.updates
    train(model, engine, range(2, 4), rank)

    other_model, other = make_engine(stage, rank)
    for kind in KINDS:
        other.load(kind, flat_of(saved[kind]))
    other.updates = count
    train(other_model, other, range(2, 4), rank)

    assert other.updates == engine.updates == 4
    assert_close(snapshot(other), snapshot(engine), rtol=0, atol=0)


def test_state_exists_before_the_first_update(rank: Rank) -> None:
    for stage in range(4):
        _, engine = make_engine(stage, rank)
        start = {name: parameter.detach() for name, parameter in StandIn().named_parameters()}
        zeros = {name: torch.zeros_like(value) for name, value in start.items()}
        assert engine.updates == 0
        assert_close(snapshot(engine), {"master": start, "exp_avg": zeros, "exp_avg_sq": zeros}, rtol=0, atol=0)


def test_gathered_parameters_are_the_masters(rank: Rank) -> None:
    for stage in range(4):
        model, engine = make_engine(stage, rank)
        train(model, engine, range(1), rank)
        gathered = {name: value.clone() for name, value in engine.parameters()}
        assert_close(gathered, snapshot(engine)["master"], rtol=0, atol=0)
        assert list(gathered) == [name for name, _ in StandIn().named_parameters()]


@pytest.mark.parametrize("stage", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 3])
def test_bfloat16_keeps_masters_in_the_precision_of_the_file_and_restores(stage: int, rank: Rank) -> None:
    model, engine = make_engine(stage, rank, dtype=torch.bfloat16)
    start = {name: parameter.detach() for name, parameter in StandIn().named_parameters()}
    assert_close(dict(engine.state("master")), start, rtol=0, atol=0)
    for name, value in engine.parameters():
        assert_close(value, start[name].bfloat16(), rtol=0, atol=0)
    ids, x = torch.randint(0, 31, (2, 6)), torch.randn(2, 5, 7, dtype=torch.bfloat16)
    for _ in range(2):
        engine.update([lambda: model.text_loss(ids), lambda: model.flow_loss(ids, x)], dict.fromkeys(LEARNING_RATES, 1e-4))
    saved = snapshot(engine)
    assert all(value.dtype == torch.float32 for value in saved["master"].values())
    assert any((value.bfloat16().float() != value).any() for value in saved["master"].values())

    _, other = make_engine(stage, rank, dtype=torch.bfloat16)
    for kind in KINDS:
        other.load(kind, flat_of(saved[kind]))
    assert_close(snapshot(other), saved, rtol=0, atol=0)
    for name, value in other.parameters():
        assert_close(value, saved["master"][name].bfloat16(), rtol=0, atol=0)


def test_bfloat16_at_stage_0_is_refused(rank: Rank) -> None:
    with pytest.raises(ValueError, match="which keeps no float32 masters"):
        make_engine(0, rank, dtype=torch.bfloat16)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_loss_that_is_not_finite_stops_with_the_parameters_untouched(stage: int, rank: Rank) -> None:
    model, engine = make_engine(stage, rank)
    before = snapshot(engine)
    losses = micro_batches(model, 0, range(2), flow_first=False)
    with pytest.raises(FloatingPointError, match="update 1 has loss nan"):
        engine.update([*losses, lambda: losses[0]() * float("nan")], LEARNING_RATES)
    assert_close(snapshot(engine), before, rtol=0, atol=0)


@pytest.mark.parametrize("trains", [("text",), ("generation",)])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_what_is_frozen_has_no_state_and_stays_bit_equal(stage: int, trains: tuple[str, ...], rank: Rank) -> None:
    model, engine = make_engine(stage, rank, trains=trains)
    start = {name: value.clone() for name, value in engine.parameters()}
    names = StandIn().groups()[trains[0]]
    for step in range(2):
        stats = engine.update(micro_batches(model, step, range(4), flow_first=False), LEARNING_RATES)
        assert list(stats.grad_norms) == list(trains)
    assert sorted(engine.trained) == sorted(names)
    for kinds in snapshot(engine).values():
        assert sorted(kinds) == sorted(names)
    num_elements = sum(StandIn().get_parameter(name).numel() for name in names)
    held = sum(state["exp_avg"].numel() for state in engine._adamw.state.values())
    assert num_elements <= held <= num_elements + 8, "padding aside, moments are the trained parameters' alone"
    for name, value in engine.parameters():
        assert torch.equal(value, start[name]) == (name not in names)
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name not in names)


@pytest.mark.parametrize("trains", [("text",), ("generation",)])
def test_training_a_part_is_what_plain_adamw_does_with_that_part(trains: tuple[str, ...], rank: Rank) -> None:
    expected = StandIn()
    names = expected.groups()[trains[0]]
    for name, parameter in expected.named_parameters():
        parameter.requires_grad_(name in names)
    trained = [parameter for parameter in expected.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, eps=ADAMW.eps, weight_decay=ADAMW.weight_decay)
    for loss in micro_batches(expected, 0, range(4), flow_first=False):
        if (value := loss()).requires_grad:
            value.backward()
    torch.nn.utils.clip_grad_norm_(trained, ADAMW.max_grad_norm)
    optimizer.step()
    for stage in range(4):
        model, engine = make_engine(stage, rank, trains=trains)
        engine.update(micro_batches(model, 0, range(4), flow_first=False), LEARNING_RATES)
        for name, value in engine.parameters():
            assert_close(value, expected.get_parameter(name).detach(), rtol=0, atol=PARAMETER_TOLERANCE[stage])


def test_an_update_that_ends_with_a_loss_of_nothing_trained_is_refused(rank: Rank) -> None:
    model, engine = make_engine(1, rank, trains=("generation",))
    with pytest.raises(AssertionError, match="the last micro-batch of an update reaches no trained parameter"):
        engine.update(micro_batches(model, 0, range(2), flow_first=True), LEARNING_RATES)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_reference_answers_through_the_engine_and_never_moves(stage: int, rank: Rank) -> None:
    reference = StandIn().to("meta")
    model, engine = make_engine(stage, rank, reference=reference)
    ids = torch.arange(12).view(2, 6)
    expected = StandIn().hidden(ids)
    for step in range(2):
        assert_close(engine.compute(lambda: reference.hidden(ids)), expected, rtol=0, atol=0)
        train(model, engine, range(step, step + 1), rank)
    assert not torch.equal(engine.compute(lambda: model.hidden(ids)), expected)
    assert not any(name.startswith("reference") for name, _ in engine.parameters())


def test_buffers_are_filled_too(rank: Rank) -> None:
    class Shifted(StandIn):
        shift: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("shift", torch.arange(6.0).view(2, 3))

    for stage in (1, 3):
        model = Shifted().to("meta")
        ZeroEngine(model, model.groups(), flat_of(Shifted().state_dict()), stage=stage, adamw=ADAMW, rank=rank, timeout=TIMEOUT)
        assert torch.equal(model.shift, torch.arange(6.0).view(2, 3))
