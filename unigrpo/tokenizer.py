"""Text to token ids and back, with the tokenizer that lies in a checkpoint folder."""

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


class Tokenizer:
    """The folder's tokenizer without chat template or added tokens: segments are wrapped elsewhere (unigrpo/layout.py)."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text. Raises ValueError naming the words a small vocabulary does not have."""
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        unknown = self._tokenizer.unk_token_id
        if unknown is not None and unknown in ids:
            words = [word for word in text.split() if unknown in self._tokenizer.encode(word, add_special_tokens=False)]
            raise ValueError(f"the tokenizer does not know {', '.join(words)} in {text!r}; use words of its vocabulary")
        return tuple(ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        text = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        assert isinstance(text, str)
        return text


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder. Raises ValueError when the folder has none."""
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise ValueError(f"{folder} holds no tokenizer (tokenizer.json, or vocab.json and merges.txt); copy the model's there")
    return Tokenizer(AutoTokenizer.from_pretrained(str(folder), local_files_only=True))
