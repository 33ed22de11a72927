"""The saved tokenizer: loadable offline, word for word, exact both ways."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from unigrpo.shapes.plan import write_trace
from unigrpo.shapes.prompts import shapes_prompts
from unigrpo.shapes.tokenizer import SPECIAL_TOKENS, encode, save_tokenizer, vocabulary
from unigrpo.shapes.world import CELLS, COLORS, SHAPES, Item, Scene
from unigrpo.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    save_tokenizer(tmp_path)
    return load_tokenizer(tmp_path)


def _texts() -> list[str]:
    plans = [Scene((Item(color, shape, cell),)) for color in COLORS for shape in SHAPES for cell in CELLS]
    prompts = [prompt.text for split in ("train", "held_out") for prompt in shapes_prompts(split)]
    return [*prompts, *map(write_trace, plans)]


def test_every_prompt_and_trace_goes_round_exactly(tokenizer: Tokenizer) -> None:
    for text in _texts():
        ids = tokenizer.encode(text)
        assert ids == encode(text)
        assert len(ids) == len(text.split())
        assert tokenizer.decode(ids) == text


def test_special_tokens_come_first_and_words_are_sorted(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path, local_files_only=True)
    words = list(vocabulary())
    assert loaded.convert_tokens_to_ids(words) == list(range(len(words))) == list(vocabulary().values())
    assert tuple(words[:5]) == (*SPECIAL_TOKENS, "<unk>")
    assert words[5:] == sorted(words[5:])
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.unk_token_id) == (0, 1, 4)
    assert {";"} | {word for text in _texts() for word in text.split()} == set(words[5:])


def test_think_marks_are_ordinary_words(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<|im_start|> <think> red circle A1 </think> <|im_end|>")
    assert tokenizer.decode(ids) == "<think> red circle A1 </think>"


def test_an_unknown_word_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(
        ValueError, match=r"'mauve' in 'a mauve circle' is no word of the shapes world; its words are .* yellow"
    ):
        encode("a mauve circle")
    with pytest.raises(ValueError, match="does not know 'mauve' in 'a mauve circle'"):
        tokenizer.encode("a mauve circle")
