"""Text to token ids and back, with the tokenizer of a checkpoint folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers.models import BPE

TOKENIZER_FILE = "tokenizer.json"
VOCABULARY_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")
"""What a tokenizer of Qwen2's kind is built from where there is no tokenizer.json."""
TOKENIZER_FILES = (TOKENIZER_FILE, *VOCABULARY_FILES, "special_tokens_map.json", "added_tokens.json")
"""Every file of a tokenizer; a folder holds some of them."""


class Tokenizer:
    """A folder's tokenizer without chat template or added tokens: segments are wrapped elsewhere (unigrpo/layout.py)."""

    def __init__(self, tokenizer: HuggingFaceTokenizer) -> None:
        self._tokenizer = tokenizer
        # A file may ask for either, and both change what is said.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        unknown = getattr(tokenizer.model, "unk_token", None)
        self._unknown = tokenizer.token_to_id(unknown) if unknown else None

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text, all of them and no more.

        Raises ValueError naming the words that a word-level vocabulary does not have, and for a text that is no Unicode.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"character {error.start} of {text!r} is {text[error.start]!r}, which is half of a pair in UTF-16 and no "
                "character of its own; write the whole one"
            ) from None
        try:
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        except Exception as error:  # tokenizers raises nothing more precise
            raise ValueError(f"the tokenizer has no tokens for {text!r} ({error}); use words of its vocabulary") from error
        if self._unknown is not None and self._unknown in encoding.ids:
            spans = [span for span, token in zip(encoding.offsets, encoding.ids, strict=True) if token == self._unknown]
            words = ", ".join(repr(text[start:end]) for start, end in spans)
            raise ValueError(f"the tokenizer does not know {words} in {text!r}; use words of its vocabulary")
        return tuple(encoding.ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    @property
    def is_bpe(self) -> bool:
        """Whether it is a byte-pair encoding, as the released model's."""
        return isinstance(self._tokenizer.model, BPE)

    def id_of(self, token: str) -> int | None:
        """The id of one token by its text; None where the vocabulary does not have it."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def largest_id(self) -> int:
        """The last id it may give."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values())


def tokenizer_file(folder: Path) -> Path | None:
    """tokenizer.json of a folder, else its vocab.json, else None."""
    found = [folder / name for name in (TOKENIZER_FILE, VOCABULARY_FILES[0]) if (folder / name).is_file()]
    return found[0] if found else None


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder. Raises ValueError when the folder has none or it is damaged."""
    path = tokenizer_file(folder)
    if path is None:
        raise ValueError(f"{folder / TOKENIZER_FILE} is missing; copy the model's tokenizer there")
    if path.name != TOKENIZER_FILE and (missing := [name for name in VOCABULARY_FILES if not (folder / name).is_file()]):
        raise ValueError(f"{path} stands there without {', '.join(missing)}; copy the model's whole tokenizer there")
    try:
        return Tokenizer(HuggingFaceTokenizer.from_file(str(path)) if path.name == TOKENIZER_FILE else _from_vocabulary(folder))
    except Exception as error:  # tokenizers raises nothing more precise
        raise ValueError(f"{path} is no tokenizer ({error}); copy it again from its source") from error


def check_special_tokens(tokenizer: Tokenizer, wanted: Mapping[str, int], vocab_size: int, folder: Path) -> None:
    """Raises ValueError unless a tokenizer has the model's special tokens at their ids, and no id that the model has not.

    wanted: text of each special token -> its id in the config. folder: of both, for the message.
    """
    place, way_out = tokenizer_file(folder), f"copy tokenizer and config.json of one checkpoint into {folder}"
    found = {token: tokenizer.id_of(token) for token in wanted}
    if missing := [token for token, token_id in found.items() if token_id is None]:
        raise ValueError(f"{place} does not know {', '.join(missing)}, which mark texts and pictures; {way_out}")
    if differing := [token for token, token_id in found.items() if token_id != wanted[token]]:
        named = ", ".join(f"{token} is {found[token]} in {place}, but {wanted[token]} in config.json" for token in differing)
        raise ValueError(f"{named}; {way_out}, or set special_tokens in config.json")
    if (largest := tokenizer.largest_id()) >= vocab_size:
        raise ValueError(f"{place} has ids up to {largest}, but the model's vocab_size is {vocab_size}; {way_out}")


def _from_vocabulary(folder: Path) -> HuggingFaceTokenizer:
    from transformers import Qwen2TokenizerFast

    built: HuggingFaceTokenizer = Qwen2TokenizerFast.from_pretrained(folder, local_files_only=True).backend_tokenizer
    return built
