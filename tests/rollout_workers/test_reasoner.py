import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from rollout_workers.reasoner import Reasoner, reasoner_environment
from tests.rollout_workers.engine_process import EngineProcess, break_off, leave_out
from tests.rollout_workers.fakes import MODEL, buckets_of, given_P, random_model, train_config
from unigrpo.errors import NotServing
from unigrpo.types import Thought

SYSTEM = list(range(1, 41))
PROMPTS = [[50, 51, 52], [53, 54, 55, 56, 57], [58]]
"""With the system prompt before them they are longer than a block of the cache, so that a stale one would be reused."""
GIVEN = given_P(SYSTEM, PROMPTS)
SEEDS = [[100, 101, 102, 103], [200, 201, 202, 203], [300, 301, 302, 303]]
LONGEST = 12


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[EngineProcess]:
    """One vLLM engine for the whole module; every test loads what it needs."""
    process = EngineProcess(train_config(checkpoint))
    yield process
    process.close()


def torch_logp(seed: int, prompt: list[int], thought: Thought, temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities of a thought under random_model(seed), from one plain forward of the torch model."""
    model = random_model(seed)
    head = [
        MODEL.bos_token_id,
        *SYSTEM,
        MODEL.eos_token_id,
        MODEL.bos_token_id,
        *prompt,
        MODEL.eos_token_id,
        MODEL.bos_token_id,
    ]
    ids = [*head, *thought.token_ids]
    hidden, _ = model.prefill(torch.tensor([ids[:-1]]), torch.tensor([len(ids) - 1]))
    logp_TV = (model.logits(hidden)[0, len(head) - 1 :] / temperature).log_softmax(-1)
    return logp_TV[torch.arange(len(thought.token_ids)), torch.tensor(thought.token_ids)]


def mismatch(seed: int, thoughts_PG: list[list[Thought]], temperature: float = 1.0) -> float:
    """Largest |behavior_logp - torch's|."""
    return max(
        (torch.tensor(thought.behavior_logp) - torch_logp(seed, prompt, thought, temperature)).abs().max().item()
        for prompt, thoughts in zip(PROMPTS, thoughts_PG, strict=True)
        for thought in thoughts
    )


def test_a_fresh_worker_serves_nothing(engine: EngineProcess) -> None:
    assert engine.version() is None
    with pytest.raises(NotServing, match="serves none yet"):
        engine.think(GIVEN, SEEDS, 1.0, 0)


def test_log_probabilities_are_the_models_after_every_push(engine: EngineProcess) -> None:
    for version, seed in ((0, 1), (1, 2), (2, 1)):
        engine.load(version, buckets_of(random_model(seed), version))
        assert engine.version() == version
        thoughts_PG = engine.think(GIVEN, SEEDS, 1.0, version)
        assert mismatch(seed, thoughts_PG) < 1e-4
        assert mismatch(3 - seed, thoughts_PG) > 1
        assert {thought.policy_version for thoughts in thoughts_PG for thought in thoughts} == {version}


@pytest.mark.parametrize("name", ["lm_head.weight", "model.embed_tokens.weight", "model.layers.1.self_attn.k_norm.weight"])
def test_one_changed_tensor_alone_takes_effect(engine: EngineProcess, name: str) -> None:
    engine.load(0, buckets_of(random_model(1), 0))
    before = engine.think(GIVEN, SEEDS, 1.0, 0)
    changed = {key: value.clone() for key, value in random_model(1).named_parameters()}
    changed[f"language_model.{name}"] *= 1.5
    engine.load(1, buckets_of(changed.items(), 1))
    after = engine.think(GIVEN, SEEDS, 1.0, 1)
    assert [t.behavior_logp[0] for ts in before for t in ts] != [t.behavior_logp[0] for ts in after for t in ts]
    assert mismatch(1, after) > 1e-2


def test_another_version_is_not_sampled_from(engine: EngineProcess) -> None:
    engine.load(3, buckets_of(random_model(1), 3))
    with pytest.raises(NotServing, match=r"version 4 .* serves 3"):
        engine.think(GIVEN, SEEDS, 1.0, 4)


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "generation"])
def test_weights_that_are_not_the_models_are_refused_and_nothing_is_served(engine: EngineProcess, fault: str) -> None:
    engine.load(0, buckets_of(random_model(1), 0))
    tensors = dict(random_model(2).named_parameters())
    key = "language_model.model.layers.1.self_attn.k_proj.bias"
    if fault == "missing":
        del tensors[key]
    if fault == "extra":
        key = "language_model.model.layers.2.self_attn.k_proj.bias"
        tensors[key] = torch.nn.Parameter(torch.ones(64))
    if fault == "shape":
        tensors[key] = torch.nn.Parameter(torch.ones(63))
    if fault == "generation":
        key = "language_model.model.layers.1.self_attn.k_proj_moe_gen.bias"
        del tensors[key]
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        engine.load(1, buckets_of(tensors.items(), 1))
    assert engine.version() is None
    with pytest.raises(NotServing):
        engine.think(GIVEN, SEEDS, 1.0, 0)


@pytest.mark.parametrize("after", [1, 9, 20])
def test_an_update_that_broke_off_leaves_no_trace_in_the_next(engine: EngineProcess, after: int) -> None:
    engine.load(0, buckets_of(random_model(1), 0))
    with pytest.raises(ConnectionError, match="transport broke"):
        engine.load_tampered(1, buckets_of(random_model(3), 1), partial(break_off, after=after))
    assert engine.version() is None
    engine.load(2, buckets_of(random_model(2), 2))
    assert mismatch(2, engine.think(GIVEN, SEEDS, 1.0, 2)) < 1e-4


@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.0.mlp.down_proj.weight"])
def test_the_engine_does_not_go_on_with_an_old_weight(engine: EngineProcess, name: str) -> None:
    engine.load(0, buckets_of(random_model(1), 0))
    with pytest.raises(ValueError, match=rf"left out \['{name}'\]"):
        engine.load_tampered(1, buckets_of(random_model(2), 1), partial(leave_out, left_out=name))
    assert engine.version() is None


def test_a_seed_gives_the_same_thought_in_any_batch(engine: EngineProcess) -> None:
    engine.load(0, buckets_of(random_model(1), 0))
    together = engine.think(GIVEN, SEEDS, 1.0, 0)
    assert engine.think(GIVEN, SEEDS, 1.0, 0) == together
    for prompt, seeds, thoughts in zip(PROMPTS, SEEDS, together, strict=True):
        assert len({thought.token_ids for thought in thoughts}) == len(seeds)
        for seed, thought in zip(seeds, thoughts, strict=True):
            [[alone]] = engine.think(given_P(SYSTEM, [prompt]), [[seed]], 1.0, 0)
            assert alone.token_ids == thought.token_ids
            assert_close(alone.behavior_logp, thought.behavior_logp, rtol=0, atol=1e-5)


def test_groups_may_differ_in_size_and_exceed_the_engines_batch(engine: EngineProcess) -> None:
    engine.load(0, buckets_of(random_model(1), 0))
    sizes = [30, 1, 0]
    thoughts_PG = engine.think(GIVEN, [list(range(size)) for size in sizes], 1.0, 0)
    assert [len(thoughts) for thoughts in thoughts_PG] == sizes
    assert mismatch(1, [thoughts[:4] for thoughts in thoughts_PG[:2]] + [[]]) < 1e-4


def test_a_thought_ends_with_eos_or_is_flagged_as_truncated(engine: EngineProcess) -> None:
    engine.load(0, buckets_of(random_model(1), 0))
    thoughts = [thought for group in engine.think(GIVEN, [list(range(40))] * 3, 1.0, 0) for thought in group]
    for thought in thoughts:
        assert MODEL.eos_token_id not in thought.token_ids[:-1]
        assert thought.truncated == (thought.token_ids[-1] != MODEL.eos_token_id)
        assert len(thought.token_ids) == len(thought.behavior_logp) <= LONGEST
        assert not thought.truncated or len(thought.token_ids) == LONGEST
    assert {thought.truncated for thought in thoughts} == {True, False}


def test_greedy_takes_the_likeliest_token(engine: EngineProcess) -> None:
    engine.load(0, buckets_of(random_model(1), 0))
    thoughts_PG = engine.think(given_P([], PROMPTS), [[1, 2]] * 3, 0.0, 0)
    model = random_model(1)
    for prompt, (thought, other_seed) in zip(PROMPTS, thoughts_PG, strict=True):
        assert thought == other_seed
        ids = [MODEL.bos_token_id, *prompt, MODEL.eos_token_id, MODEL.bos_token_id, *thought.token_ids[:-1]]
        hidden, _ = model.prefill(torch.tensor([ids]), torch.tensor([len(ids)]))
        assert tuple(model.logits(hidden)[0].argmax(-1)[-len(thought.token_ids) :].tolist()) == thought.token_ids


def test_log_probabilities_are_those_of_the_temperature(engine: EngineProcess) -> None:
    engine.load(0, buckets_of(random_model(1), 0))
    thoughts_PG = engine.think(GIVEN, SEEDS, 0.5, 0)
    assert mismatch(1, thoughts_PG, temperature=0.5) < 1e-4


def test_a_prompt_that_leaves_no_room_is_refused(engine: EngineProcess) -> None:
    engine.load(0, buckets_of(random_model(1), 0))
    longest = [1] * (96 - LONGEST - len(SYSTEM) - 5)
    engine.think(given_P(SYSTEM, [longest]), [[1]], 1.0, 0)
    with pytest.raises(ValueError, match=r"85 tokens .*max_model_len=96 leaves 84 beside .*max_thought_tokens=12"):
        engine.think(given_P(SYSTEM, [[*longest, 1]]), [[1]], 1.0, 0)


def test_without_vllm_the_way_out_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r"not installed; .*\[gpu\]"):
        Reasoner(train_config(checkpoint))


def test_a_cache_that_would_preempt_is_refused(checkpoint: Path) -> None:
    needed = (16 * 3 + 1) * 32 * 2 * 2 * 2 * 32 * 4  # blocks, tokens, keys and values, layers, heads, head_dim, float32
    small = {"max_num_seqs": 16, "max_model_len": 96, "kv_cache_bytes": needed - 1}
    with pytest.raises(ValueError, match=f"kv_cache_bytes is {needed - 1}, .* need {needed}"):
        Reasoner(train_config(checkpoint, reasoner=small))


def test_the_environment_follows_the_placement(checkpoint: Path) -> None:
    config = train_config(checkpoint, reasoner={"placement": {"num_threads": 3}})
    assert reasoner_environment(config)["OMP_NUM_THREADS"] == "3"
