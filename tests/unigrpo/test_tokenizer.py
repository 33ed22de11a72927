"""A folder's tokenizer in both layouts of the released one, and the model's special tokens in it."""

import hashlib
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers.models import WordLevel

from configs.schema import ModelConfig
from tests.unigrpo.released_tokenizer import IDS, MERGES, SPECIAL_TOKENS, VOCAB_SIZE, save_released_tokenizer
from unigrpo.tokenizer import check_special_tokens, load_tokenizer, tokenizer_file

SYSTEM_PROMPT = ModelConfig().system_prompt
WANTED = {token: IDS[token] for token in ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_released_tokenizer(tmp_path)
    return tmp_path


def test_the_think_prompt_is_the_references(folder: Path) -> None:
    """209 characters, the blank before the newline among them."""
    digest = hashlib.sha256(SYSTEM_PROMPT.encode()).hexdigest()
    assert (len(SYSTEM_PROMPT), digest[:8], digest[-6:]) == (209, "837914a3", "67d390")
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode(SYSTEM_PROMPT)) == SYSTEM_PROMPT


@pytest.mark.parametrize("text", ["", " ", "the red. \nThe", "déjà  vu\n\n", "12'S\t", "<think> the </think>", "红色的圆"])
def test_texts_go_round_exactly(folder: Path, text: str) -> None:
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(IDS.values())


def test_ids_follow_from_the_merges(folder: Path) -> None:
    """By hand: blank + the, blank + r e -> re, and d and a newline as bytes."""
    words = json.loads((folder / "vocab.json").read_text())
    names = ["Ġthe", "Ġre", "d", "Ċ"]
    assert load_tokenizer(folder).encode(" the red\n") == tuple(words[name] for name in names)
    assert words["Ġthe"] == 256 + MERGES.index(("Ġ", "the"))


def test_think_marks_are_ordinary_text_and_special_tokens_are_left_out_of_it(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert len(tokenizer.encode("<think>")) == len("<think>") - 2  # its th and its in are merged
    ids = (IDS["<|im_start|>"], *tokenizer.encode("<think> the"), IDS["<|im_end|>"])
    assert tokenizer.decode(ids) == "<think> the"


def test_vocabulary_and_merges_make_the_same_tokenizer(folder: Path) -> None:
    whole = load_tokenizer(folder)
    (folder / "tokenizer.json").unlink()
    assert tokenizer_file(folder) == folder / "vocab.json"
    built = load_tokenizer(folder)
    for text in (SYSTEM_PROMPT, " the re<|im_end|>ing 12'S  \t "):
        assert built.encode(text) == whole.encode(text)
        assert built.decode(built.encode(text)) == whole.decode(whole.encode(text))
    check_special_tokens(built, WANTED, VOCAB_SIZE, folder)


def test_a_folder_without_a_tokenizer_or_with_half_of_one(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "merges.txt").unlink()
    with pytest.raises(ValueError, match=r"vocab.json stands there without merges.txt; copy the model's whole tokenizer"):
        load_tokenizer(folder)
    (folder / "vocab.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer.json is missing; copy the model's tokenizer there"):
        load_tokenizer(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json"])
def test_a_damaged_tokenizer_is_named(folder: Path, name: str) -> None:
    if name == "vocab.json":
        (folder / "tokenizer.json").unlink()
    (folder / name).write_text("{")
    with pytest.raises(ValueError, match=rf"{name} is no tokenizer \(.*\); copy it again from its source"):
        load_tokenizer(folder)


def test_a_file_that_asks_for_truncation_or_padding_gives_whole_texts(folder: Path) -> None:
    text = "the red thing re the ring"
    whole = load_tokenizer(folder).encode(text)
    for ask in (lambda tokenizer: tokenizer.enable_truncation(3), lambda tokenizer: tokenizer.enable_padding(length=99)):
        save_released_tokenizer(folder)
        asking = HuggingFaceTokenizer.from_file(str(folder / "tokenizer.json"))
        ask(asking)
        asking.save(str(folder / "tokenizer.json"))
        assert len(asking.encode(text).ids) in (3, 99)
        assert load_tokenizer(folder).encode(text) == whole


def test_half_a_character_is_named(folder: Path) -> None:
    half = json.loads(r'"the \ud83d red"')
    with pytest.raises(ValueError, match=r"^character 4 of 'the \\ud83d red' is '\\ud83d', which is half of a pair .*; write"):
        load_tokenizer(folder).encode(half)
    assert len(load_tokenizer(folder).encode("\N{GRINNING FACE}")) == 4


def test_a_vocabulary_without_its_own_unknown_token(tmp_path: Path) -> None:
    HuggingFaceTokenizer(WordLevel({"circle": 0}, unk_token="<unk>")).save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("circle") == (0,)
    with pytest.raises(
        ValueError, match=r"^the tokenizer has no tokens for 'square' \(.*UNK.*\); use words of its vocabulary$"
    ):
        tokenizer.encode("square")


def test_special_tokens_at_the_ids_of_the_config(folder: Path) -> None:
    check_special_tokens(load_tokenizer(folder), WANTED, VOCAB_SIZE, folder)
    check_special_tokens(load_tokenizer(folder), WANTED, VOCAB_SIZE + 99, folder)


def test_special_tokens_that_are_missing_elsewhere_or_beyond_the_vocabulary(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    with pytest.raises(ValueError, match=rf"<\|im_end\|> is {IDS['<|im_end|>']} in .*tokenizer.json, but 7 in config.json; "):
        check_special_tokens(tokenizer, WANTED | {"<|im_end|>": 7}, VOCAB_SIZE, folder)
    last = VOCAB_SIZE - 1
    with pytest.raises(ValueError, match=rf"tokenizer.json has ids up to {last}, but the model's vocab_size is {last}; "):
        check_special_tokens(tokenizer, WANTED, last, folder)
    save_released_tokenizer(folder, special_tokens=SPECIAL_TOKENS[:9])
    with pytest.raises(ValueError, match=r"tokenizer.json does not know <\|vision_start\|>, <\|vision_end\|>, .*; copy token"):
        check_special_tokens(load_tokenizer(folder), WANTED, VOCAB_SIZE, folder)
