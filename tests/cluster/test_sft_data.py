"""What a step of fine-tuning imitates: spans in BAGEL's order, conditions dropped, every draw a function of (seed, step)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from cluster.sft import load_autoencoder, prepared, shares_of
from cluster.sft_data import Dropped, Material, dropped, num_tokens, picture_rule, shifted, step_examples
from configs.load import ConfigError, parse
from configs.schema import SftConfig
from configs.sft import ConditionDropout
from configs.think_prompt import THINK_PROMPT
from learner.batch import SftExample, sft_row
from tests.cluster.seeing import PAINTED, SEEING, save_seeing_model, write_examples
from unigrpo.models.bagel.packing import pack
from unigrpo.sft_file import read_sft_file
from unigrpo.shapes.tokenizer import vocabulary
from unigrpo.tokenizer import load_tokenizer
from unigrpo.types import Given, GivenPicture

NOTHING_DROPPED = {"text": 0, "latents": 0, "patches": 0}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    folder = tmp_path_factory.mktemp("sft")
    model = save_seeing_model(folder / "model")
    lines = read_sft_file(write_examples(folder))
    return Material(model=SEEING, autoencoder=load_autoencoder(model, SEEING.vae), tokenizer=load_tokenizer(model), lines=lines)


def config_of(**changes: Any) -> SftConfig:
    """A pass over the six lines a step, nothing dropped."""
    values = {"task": "sft", "seed": 3, "steps": 4, "run_dir": "run", "batch_size": 6, "noise_draws": 2}
    values |= {"start": {"kind": "checkpoint"}, "data": {"kind": "file"}, "dropout": NOTHING_DROPPED}
    config = parse(values | changes, source="test")
    assert isinstance(config, SftConfig)
    return config


def in_file_order(examples: list[SftExample], material: Material) -> list[SftExample]:
    """The examples by the number in their prompt."""

    def number(example: SftExample) -> str:
        return material.tokenizer.decode(example.given[-1].token_ids)  # type: ignore[union-attr]

    return sorted(examples, key=number)


def read(example: SftExample, material: Material) -> list[str]:
    """What stands before the thought, in words."""
    return [
        "picture" if isinstance(span, GivenPicture) else material.tokenizer.decode(span.token_ids) for span in example.given
    ]


def test_spans_stand_in_order_and_the_system_prompt_where_there_is_a_thought(material: Material) -> None:
    examples = in_file_order(step_examples(config_of(), 0, material), material)
    assert [read(example, material) for example in examples] == [
        [THINK_PROMPT, "the thing 0"],
        ["the thing 1"],
        [THINK_PROMPT, "the thing 2"],
        ["picture", "the thing 3"],
        [THINK_PROMPT, "picture", "the thing 4"],
        ["picture", "the thing 5"],
    ]
    thoughts = [None if each.thought is None else material.tokenizer.decode(each.thought) for each in examples]
    assert thoughts[::2] == [f"<think> the thing is {index} </think>" for index in (0, 2, 4)]
    assert thoughts[1::2] == [None] * 3
    assert [example.grid_hw for example in examples] == [(height // 8, width // 8) for height, width in PAINTED]
    for example, (height, width) in zip(examples, PAINTED, strict=True):
        assert example.latent_LC.shape == (height * width // 64, 16)
        assert example.noise_KLC.shape == (2, *example.latent_LC.shape)
    sources = [span for example in examples for span in example.given if isinstance(span, GivenPicture)]
    assert [source.grid_hw for source in sources] == [(width // 8, height // 8) for height, width in PAINTED[3:]]


def test_a_smaller_longest_side_and_another_system_prompt(material: Material) -> None:
    data = {"kind": "file", "longest_side": 16, "system_prompt": ""}
    examples = in_file_order(step_examples(config_of(data=data), 0, material), material)
    assert read(examples[4], material) == ["picture", "the thing 4"]
    assert {max(example.grid_hw) for example in examples} == {2}
    assert picture_rule(config_of(data=data), SEEING).size(640, 640) == (16, 16)
    assert picture_rule(config_of(), SEEING).size(640, 640) == (40, 40)


def test_text_dropout_leaves_what_guidance_leaves_and_no_thought_to_predict(material: Material) -> None:
    examples = step_examples(config_of(dropout={**NOTHING_DROPPED, "text": 1}), 0, material)
    assert sorted(read(example, material) for example in examples) == sorted(
        [[THINK_PROMPT], [], [THINK_PROMPT], ["picture"], [THINK_PROMPT, "picture"], ["picture"]]
    )
    assert {example.thought for example in examples} == {None}


@pytest.mark.parametrize("block", ["latents", "patches"])
def test_a_dropped_block_keeps_the_place_of_its_picture(material: Material, block: str) -> None:
    whole = step_examples(config_of(), 0, material)
    examples = step_examples(config_of(dropout={**NOTHING_DROPPED, block: 1}), 0, material)
    for example, undropped in zip(examples, whole, strict=True):
        assert torch.equal(example.noise_KLC, undropped.noise_KLC)
        for span, other in zip(example.given, undropped.given, strict=True):
            if isinstance(span, GivenPicture) and isinstance(other, GivenPicture):
                assert (span.latent_LC is None, span.seen_HW3 is None) == (block == "latents", block == "patches")
                assert span.grid_hw == other.grid_hw


def test_conditions_are_dropped_at_their_shares_each_on_its_own() -> None:
    dropout = ConditionDropout(text=0.1, latents=0.3, patches=0.5)
    draws = [dropped(dropout, seed=0, step=step, index=index) for step in range(50) for index in range(40)]
    shares = [sum(getattr(draw, name) for draw in draws) / len(draws) for name in ("text", "latents", "patches")]
    assert shares == pytest.approx([0.1, 0.3, 0.5], abs=0.03)  # three standard errors
    assert sum(draw.latents and draw.patches for draw in draws) / len(draws) == pytest.approx(0.15, abs=0.03)
    assert draws == [dropped(dropout, seed=0, step=step, index=index) for step in range(50) for index in range(40)]
    assert draws != [dropped(dropout, seed=1, step=step, index=index) for step in range(50) for index in range(40)]


def test_nothing_and_everything_are_exact() -> None:
    never, always = ConditionDropout(text=0, latents=0, patches=0), ConditionDropout(text=1, latents=1, patches=1)
    for index in range(1000):
        assert dropped(never, seed=0, step=0, index=index) == Dropped(text=False, latents=False, patches=False)
        assert dropped(always, seed=0, step=0, index=index) == Dropped(text=True, latents=True, patches=True)


def test_the_shift_moves_times_to_the_noise_and_one_leaves_them(material: Material) -> None:
    t_K = torch.tensor([0.0, 0.25, 0.5, 1.0])
    assert_close(shifted(t_K, 3.0), torch.tensor([0.0, 0.5, 0.75, 1.0]))
    assert torch.equal(shifted(t_K, 1.0), t_K)
    plain, moved = (step_examples(config_of(timestep_shift=shift), 0, material) for shift in (1.0, 3.0))
    for before, after in zip(plain, moved, strict=True):
        assert_close(after.t_K, 3 * before.t_K / (1 + 2 * before.t_K))


def test_times_are_logit_normal(material: Material) -> None:
    t_K = torch.cat([example.t_K for example in step_examples(config_of(noise_draws=1000), 0, material)])
    logit_K = torch.logit(t_K)
    assert (logit_K.mean().item(), logit_K.std().item()) == pytest.approx((0, 1), abs=0.05)


def same(one: list[SftExample], other: list[SftExample]) -> bool:
    return all(
        (a.thought, a.grid_hw, len(a.given)) == (b.thought, b.grid_hw, len(b.given))
        and all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("latent_LC", "t_K", "noise_KLC"))
        and all(same_span(x, y) for x, y in zip(a.given, b.given, strict=True))
        for a, b in zip(one, other, strict=True)
    )


def same_span(one: Given | GivenPicture, other: Given | GivenPicture) -> bool:
    if isinstance(one, Given) or isinstance(other, Given):
        return one == other
    return all(
        (mine is None and theirs is None) or (mine is not None and theirs is not None and torch.equal(mine, theirs))
        for mine, theirs in ((one.latent_LC, other.latent_LC), (one.seen_HW3, other.seen_HW3))
    )


def test_what_is_prepared_ahead_is_what_each_step_asks_for(material: Material) -> None:
    config = config_of(dropout={"text": 0.3, "latents": 0.5, "patches": 0.5})
    ahead = list(prepared(config, 1, material))
    assert len(ahead) == 3
    for step, examples in enumerate(ahead, start=1):
        assert same(examples, step_examples(config, step, material))
    assert not same(ahead[0], ahead[1])
    assert list(prepared(config, 4, material)) == []


def test_a_picture_that_proves_corrupt_ends_the_run_with_its_line(tmp_path: Path, material: Material) -> None:
    lines = read_sft_file(write_examples(tmp_path))
    (tmp_path / "4.png").write_bytes((tmp_path / "4.png").read_bytes()[:200])
    broken = Material(model=SEEING, autoencoder=material.autoencoder, tokenizer=material.tokenizer, lines=lines)
    with pytest.raises(ConfigError, match=rf"{tmp_path}/data.jsonl:5: image: .*4.png: "):
        list(prepared(config_of(), 0, broken))


def test_generated_examples_speak_the_tokenizer_of_their_model(material: Material) -> None:
    config = config_of(data={"kind": "shapes", "without_thought": 0}, batch_size=3)
    for example in step_examples(config, 0, material):
        [prompt] = read(example, material)
        assert set(prompt.split()) <= vocabulary().keys()
        assert material.tokenizer.decode(example.thought or ()).startswith("<think>")
        assert example.grid_hw == (3, 3)


def test_an_example_costs_what_is_packed_of_it(material: Material) -> None:
    for changes in ({}, {"dropout": {"text": 0.3, "latents": 0.5, "patches": 0.5}}):
        for step in range(3):
            for example in step_examples(config_of(**changes), step, material):
                packed = pack([sft_row(example, SEEING).splits], SEEING, device=torch.device("cpu"), dtype=torch.float32)
                assert num_tokens(example, SEEING) == len(packed.position_T)


def test_ranks_share_a_step_evenly_by_what_examples_cost(material: Material) -> None:
    examples = step_examples(config_of(), 0, material)
    first = in_file_order(examples, material)[4]
    texts = [*(span.token_ids for span in first.given if isinstance(span, Given)), first.thought or ()]
    [seen] = [span.seen_HW3 for span in first.given if isinstance(span, GivenPicture)]
    assert seen is not None
    assert seen.shape == (24, 40, 3)
    packed = sum(len(ids) + 2 for ids in texts) + (15 + 2) + (6 * 10 + 2) + 2 * (15 + 2)  # patches of 4 pixels, latents of 8
    assert num_tokens(first, SEEING) == packed
    shares = shares_of(examples, 2, SEEING)
    assert [len(share) for share in shares] == [3, 3]
    thinking = [sum(example.thought is not None for example in share) for share in shares]
    assert sorted(thinking) == [1, 2]  # each costs more than two of the others
