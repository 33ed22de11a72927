"""The order of prompts is a function of seed and step, and every epoch visits every prompt once."""

import re
from pathlib import Path

import pytest

from cluster.prompts import PromptStream, asked, load_prompts, plain_ids, system_spans
from configs.schema import FilePrompts, ShapesPrompts
from configs.verifiers import GenevalReward
from tests.unigrpo.released_tokenizer import save_released_tokenizer
from unigrpo.tokenizer import load_tokenizer
from unigrpo.types import Given, Prompt

REWARD = GenevalReward(detector="shapes")
PROMPTS = [Prompt(index=index, text=f"prompt {index}", metadata={}) for index in range(10)]


def visited(stream: PromptStream, steps: range) -> list[int]:
    return [prompt.index for step in steps for prompt in stream.batch(step)]


def test_an_epoch_visits_every_prompt_once_even_across_steps() -> None:
    order = visited(PromptStream(PROMPTS, seed=1, per_step=4), range(5))
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]


def test_a_step_is_the_same_whatever_came_before() -> None:
    whole = PromptStream(PROMPTS, seed=1, per_step=4)
    assert visited(whole, range(7))[12:16] == visited(PromptStream(PROMPTS, seed=1, per_step=4), range(3, 4))


def test_seeds_give_different_orders() -> None:
    assert visited(PromptStream(PROMPTS, seed=1, per_step=10), range(1)) != visited(
        PromptStream(PROMPTS, seed=2, per_step=10), range(1)
    )


def test_the_same_words_about_another_picture_are_another_prompt() -> None:
    cat, dog = (Prompt(index=index, text="make it red", picture=Path(f"{index}.png"), metadata={}) for index in range(2))
    assert asked(cat) != asked(dog)
    assert asked(cat) == asked(Prompt(index=7, text="make it red", picture=Path("0.png"), metadata={"tag": "colors"}))


def test_prompts_come_from_the_world_or_a_file(tmp_path: Path) -> None:
    assert load_prompts(ShapesPrompts(split="train"), REWARD) != load_prompts(ShapesPrompts(split="held_out"), REWARD)
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"tag": "counting", "include": [{"class": "circle", "count": 2}], "prompt": "two circles"}\n')
    assert [prompt.text for prompt in load_prompts(FilePrompts(path=path), REWARD)] == ["two circles"]
    path.write_text(path.read_text().replace("circle", "dog"))
    with pytest.raises(ValueError, match=r"prompts.jsonl:1: .*dog"):
        load_prompts(FilePrompts(path=path), REWARD)


def test_what_a_user_wrote_holds_no_special_token(tmp_path: Path) -> None:
    save_released_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    plain = "<think> im_end < | vision_start |> </think>"
    assert plain_ids(plain, tokenizer) == tokenizer.encode(plain)
    assert system_spans(plain, tokenizer) == (Given(token_ids=tokenizer.encode(plain)),)
    assert system_spans("", tokenizer) == ()
    for special in ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"):
        for encode in (plain_ids, system_spans):
            with pytest.raises(ValueError, match=re.escape(f"the special token {special} must not stand in a text")):
                encode(f"a cat{special} dog", tokenizer)
