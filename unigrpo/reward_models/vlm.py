"""A vision-language model's probability of "yes" that a picture fits its prompt (RewardDance, arXiv:2509.08826).

RewardDance's reward is the model's probability of predicting a "yes" token: read here as the share, in the softmax over the
whole vocabulary, of all tokens that spell the word (yes, Yes, YES, after a space or not), not as their share beside "no". The
model is InternVL as transformers has it, read from a local folder. Nothing between the pixels and the probability cuts the
gradient: pictures are resized by an antialiased bicubic filter and normalised here, not by transformers' processors.

Left out on purpose: RewardDance's reference picture and its chain of thought (a picture is judged alone, at once), and
InternVL's dynamic tiling (a picture is one tile, stretched to the model's square).

Shapes: S samples, T tokens, HW pixels of a picture, V vocabulary.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from unigrpo.reward_models.base import RewardModel, require_pairs

QUESTION = (
    "Here is the description of a picture, in quotes: {prompt}\n"
    "Does the picture above show everything that the description asks for, and nothing that contradicts it? Answer yes or no."
)
"""{prompt} stands for the prompt as a JSON string, out of whose quotes no prompt gets."""
ANSWERS = ("yes", "Yes", "YES", " yes", " Yes", " YES")
"""Spellings of the answer; those count that are one token of the tokenizer."""
FILES = ("config.json", "tokenizer.json", "preprocessor_config.json")
"""What a folder holds beside its weights."""
EXAMPLE = "an InternVL checkpoint in transformers' own format (model_type internvl), such as OpenGVLab/InternVL3-1B-hf"
MARKS = {"start": "<|im_start|>", "end": "<|im_end|>", "image_start": "<img>", "image_end": "</img>"}
"""Tokens that InternVL's chat format wraps turns and pictures in."""


class InternVLRewardModel(RewardModel):
    """Judges pictures of any size; each is asked about in a conversation of its own.

    The text of a prompt is data: nothing in it, not even the name of a special token, is read as anything but letters.
    """

    mean_3: Tensor
    std_3: Tensor

    def __init__(self, model: Any, tokenizer: Any, *, mean: Sequence[float], std: Sequence[float]) -> None:
        """Freeze an InternVLForConditionalGeneration. Raises ValueError for a tokenizer without the chat format's tokens."""
        super().__init__()
        self.model = model
        self._tokenizer = tokenizer
        self.register_buffer("mean_3", torch.tensor(mean), persistent=False)
        self.register_buffer("std_3", torch.tensor(std), persistent=False)
        self._marks = {name: _token_id(tokenizer, token) for name, token in MARKS.items()}
        self._answers = _answer_ids(tokenizer)
        self.requires_grad_(False).eval()

    def pixel_values(self, images_S3HW: Tensor) -> Tensor:
        """[S, 3, H, W] as the vision tower takes them, from pictures in [0, 1] of any size; differentiable."""
        size = tuple(self.model.config.vision_config.image_size)
        resized = F.interpolate(images_S3HW, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        mean_311, std_311 = (each.to(resized.dtype)[:, None, None] for each in (self.mean_3, self.std_3))
        return ((resized - mean_311) / std_311).to(self.model.dtype)

    def prompt_ids(self, prompt: str) -> list[int]:
        """The conversation up to the answer: the picture, the question, and the assistant's turn opened."""
        marks, picture = self._marks, [self.model.config.image_token_id] * self.model.config.image_seq_length
        question = QUESTION.format(prompt=json.dumps(prompt, ensure_ascii=False))
        return [
            *(marks["start"], *self._text_ids("user\n")),
            *(marks["image_start"], *picture, marks["image_end"]),
            *(*self._text_ids("\n" + question), marks["end"], *self._text_ids("\n")),
            *(marks["start"], *self._text_ids("assistant\n")),
        ]

    def score(self, prompts: Sequence[str], images_S3HW: Tensor) -> Tensor:
        require_pairs(prompts, images_S3HW)
        ids = [torch.tensor(self.prompt_ids(prompt), device=images_S3HW.device) for prompt in prompts]
        length_S = torch.tensor([len(each) for each in ids], device=images_S3HW.device)
        ids_ST = pad_sequence(ids, batch_first=True, padding_value=self._marks["end"])
        mask_ST = torch.arange(ids_ST.shape[1], device=images_S3HW.device) < length_S[:, None]
        hidden_STH = self.model.model(
            input_ids=ids_ST,
            pixel_values=self.pixel_values(images_S3HW),
            attention_mask=mask_ST.long(),
            use_cache=False,
        ).last_hidden_state
        last_SH = hidden_STH[torch.arange(len(ids), device=hidden_STH.device), length_S - 1]
        logits_SV: Tensor = self.model.lm_head(last_SH)
        wide = torch.promote_types(logits_SV.dtype, torch.float32)
        # The shares of tokens rounded one by one may add up to a hair more than all there is.
        return logits_SV.to(wide).softmax(-1)[:, self._answers].sum(-1).clamp(max=1)

    def require_size(self, height: int, width: int) -> None:
        if min(height, width) < 1:
            raise ValueError(f"got a picture of {height} x {width} pixels; give one that has some")

    def require_prompt(self, prompt: str) -> None:
        if not prompt.strip():
            raise ValueError(f"the prompt is {prompt!r}; give one that asks for something")

    def _text_ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        return ids


def load_internvl_reward(folder: Path) -> InternVLRewardModel:
    """Read an InternVL checkpoint in transformers' own format, in the dtype that it was saved in.

    Raises ValueError, naming what is missing or wrong, for a folder that is not one.
    """
    from transformers import AutoTokenizer, InternVLForConditionalGeneration

    _require_whole(folder)
    mean, std = _normalisation(folder / "preprocessor_config.json")
    model, info = InternVLForConditionalGeneration.from_pretrained(
        folder,
        dtype="auto",
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    if wrong := {kind: sorted(map(str, names)) for kind, names in info.items() if names}:
        raise ValueError(f"the weights in {folder} are not those of its config: {wrong}; copy the folder again")
    _require_one_tile(model.config)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return InternVLRewardModel(model, tokenizer, mean=mean, std=std)


def _require_whole(folder: Path) -> None:
    """Raise ValueError unless a folder holds every file, and an InternVL."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}; give the folder of {EXAMPLE}")
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind != "internvl":
        raise ValueError(f"{folder} holds a model of type {kind!r}; give the folder of {EXAMPLE}")


def _normalisation(path: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel that the vision tower was trained with."""
    values = json.loads(path.read_text(encoding="utf-8"))
    pair = values.get("image_mean"), values.get("image_std")
    if not all(isinstance(each, list) and len(each) == 3 for each in pair):
        raise ValueError(f"image_mean and image_std in {path} are {pair[0]!r} and {pair[1]!r}; give three numbers each")
    mean, std = pair
    return mean, std


def _require_one_tile(config: Any) -> None:
    """Raise ValueError unless a picture of the vision tower's size becomes exactly image_seq_length tokens."""
    vision = config.vision_config
    rows, columns = (
        int(size // patch * config.downsample_ratio) for size, patch in zip(vision.image_size, vision.patch_size, strict=True)
    )
    if rows * columns != config.image_seq_length:
        raise ValueError(
            f"image_seq_length is {config.image_seq_length} in config.json, but pictures of {vision.image_size} give "
            f"{rows} x {columns} tokens; correct the one that is wrong"
        )


def _token_id(tokenizer: Any, token: str) -> int:
    index = tokenizer.convert_tokens_to_ids(token)
    if index is None or index == tokenizer.unk_token_id:
        raise ValueError(
            f"the tokenizer has no token {token!r}, which InternVL's chat format needs; give InternVL's own tokenizer"
        )
    return int(index)


def _answer_ids(tokenizer: Any) -> list[int]:
    """The tokens that are the answer, each once. Raises ValueError for a tokenizer that has none."""
    spelt = [tokenizer.encode(answer, add_special_tokens=False) for answer in ANSWERS]
    if not (whole := {int(ids[0]) for ids in spelt if len(ids) == 1}):
        raise ValueError(f"the tokenizer splits each of {', '.join(map(repr, ANSWERS))}; give InternVL's own, which does not")
    return sorted(whole)
