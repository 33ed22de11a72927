"""Text to token ids and back, with the tokenizer.json of a checkpoint folder."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as HuggingFaceTokenizer


class Tokenizer:
    """A folder's tokenizer without chat template or added tokens: segments are wrapped elsewhere (unigrpo/layout.py)."""

    def __init__(self, tokenizer: HuggingFaceTokenizer) -> None:
        self._tokenizer = tokenizer
        unknown = getattr(tokenizer.model, "unk_token", None)
        self._unknown = tokenizer.token_to_id(unknown) if unknown else None

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text. Raises ValueError naming the words that a word-level vocabulary does not have."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        if self._unknown is not None and self._unknown in encoding.ids:
            spans = [span for span, token in zip(encoding.offsets, encoding.ids, strict=True) if token == self._unknown]
            words = ", ".join(repr(text[start:end]) for start, end in spans)
            raise ValueError(f"the tokenizer does not know {words} in {text!r}; use words of its vocabulary")
        return tuple(encoding.ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder. Raises ValueError when the folder has none or it is damaged."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing; copy the model's tokenizer there")
    try:
        return Tokenizer(HuggingFaceTokenizer.from_file(str(path)))
    except Exception as error:  # tokenizers raises nothing more precise
        raise ValueError(f"{path} is no tokenizer ({error}); copy it again from its source") from error
