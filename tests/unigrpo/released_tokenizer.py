"""A small tokenizer in the released format: byte-level BPE with Qwen's pattern, and its special tokens as added ones."""

import json
from dataclasses import replace
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from unigrpo.models.bagel.config import BagelConfig

PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How Qwen2 cuts a text into words."""
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
)
MERGES = (("t", "h"), ("i", "n"), ("th", "e"), ("Ġ", "the"), ("in", "g"), ("r", "e"), ("Ġ", "re"))
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
FIRST_SPECIAL = len(BYTES) + len(MERGES)
VOCAB_SIZE = FIRST_SPECIAL + len(SPECIAL_TOKENS)
IDS = {token: FIRST_SPECIAL + index for index, token in enumerate(SPECIAL_TOKENS)}


def with_its_tokens(config: BagelConfig) -> BagelConfig:
    """A model of the same sizes whose vocabulary is this tokenizer's."""
    return replace(
        config,
        vocab_size=VOCAB_SIZE,
        bos_token_id=IDS["<|im_start|>"],
        eos_token_id=IDS["<|im_end|>"],
        start_of_image=IDS["<|vision_start|>"],
        end_of_image=IDS["<|vision_end|>"],
    )


def save_released_tokenizer(folder: Path, *, special_tokens: tuple[str, ...] = SPECIAL_TOKENS) -> None:
    """Write tokenizer.json, vocab.json, merges.txt and tokenizer_config.json into an existing folder."""
    words = [*BYTES, *("".join(pair) for pair in MERGES)]
    tokenizer = Tokenizer(BPE({word: index for index, word in enumerate(words)}, list(MERGES)))
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special_tokens])
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    settings = {
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(FIRST_SPECIAL + index): {"content": token, **flags} for index, token in enumerate(special_tokens)
        },
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
