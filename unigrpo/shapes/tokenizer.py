"""The word-level tokenizer of the shapes world, saved as an ordinary Hugging Face tokenizer.

Every word is one token; BAGEL's four special tokens stand before them, so text segments and image blocks are marked as in the
released model. `<think>` and `</think>` are ordinary words, as they are there. A word outside the vocabulary is an error:
`<unk>` exists for the loaded tokenizer to tell by (unigrpo/tokenizer.py), and is never trained on.
"""

import json
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from unigrpo.shapes.plan import CLOSE, OPEN, SEPARATOR
from unigrpo.shapes.prompts import NUMBERS
from unigrpo.shapes.world import CELLS, COLORS, OFFSETS, PLURALS

SPECIAL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
UNKNOWN = "<unk>"


@cache
def vocabulary() -> dict[str, int]:
    """Token -> id: the special tokens and `<unk>` first, then the world's words in sorted order."""
    phrases = [*NUMBERS.values(), *COLORS, *PLURALS, *PLURALS.values(), *OFFSETS, *CELLS, "and", OPEN, CLOSE, SEPARATOR]
    words = sorted({word for phrase in phrases for word in phrase.split()})
    return {token: index for index, token in enumerate((*SPECIAL_TOKENS, UNKNOWN, *words))}


def encode(text: str) -> tuple[int, ...]:
    """Token ids of words separated by spaces, as the saved tokenizer gives them. Raises ValueError naming an unknown word."""
    words = text.split()
    for word in words:
        if word not in vocabulary():
            raise ValueError(f"{word!r} in {text!r} is no word of the shapes world; its words are {' '.join(vocabulary())}")
    return tuple(vocabulary()[word] for word in words)


def save_tokenizer(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json into an existing folder, for transformers and vLLM to load offline."""
    tokenizer = Tokenizer(WordLevel(vocabulary(), unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (*SPECIAL_TOKENS, UNKNOWN)])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[0],
        "eos_token": SPECIAL_TOKENS[1],
        "unk_token": UNKNOWN,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
