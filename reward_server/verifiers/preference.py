"""Preference: agreement of prompt and picture by a CLIP model, as PickScore and CLIPScore put it into a number.

    pick_score   exp(logit_scale) * cosine / 100     PickScore (arXiv:2305.01569): what its model card computes, over 100
    clip_score   2.5 * max(cosine, 0)                CLIPScore (arXiv:2104.08718), without its prefix "A photo depicts"

Left out on purpose: SigLIP and its kin, whose scores have a bias and another meaning, and pictures of several prompts.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from configs.verifiers import PreferenceReward
from reward_server.aspect import require_modest_aspect
from reward_server.detectors.pretrained import load_model
from reward_server.fingerprint import fingerprint
from reward_server.verifiers.base import LocalVerifier
from unigrpo.types import Prompt, Score, ScoreFailure

log = logging.getLogger(__name__)

_CLIP_SCORE_WEIGHT = 2.5


class PreferenceVerifier(LocalVerifier):
    """Judges in batches, in float32, on the GPU where there is one.

    A prompt longer than the model's text window is judged by its beginning, as PickScore's own code does; how many of its
    tokens went unread stands in the breakdown, and the first such prompt is logged. Raises ValueError for a path that is not
    given, or holds no whole CLIP checkpoint.
    """

    breakdown_keys = frozenset({"preference", "cosine", "unread_tokens"})

    def __init__(self, config: PreferenceReward) -> None:
        if config.path is None:
            raise ValueError("reward.path is null; set it to the folder of a CLIP checkpoint in transformers' format")
        self._model, self._processor, self._tokenizer = _load(config.path)
        self.version = fingerprint(config.path, settings={"formula": config.formula})
        self._pick_score = config.formula == "pick_score"
        self._scale = self._model.logit_scale.detach().double().exp().item()
        self.bounds = (self._value(-1.0), self._value(1.0))
        self._window = self._model.config.text_config.max_position_embeddings
        self._warned = False

    @staticmethod
    def validate_metadata(config: PreferenceReward, metadata: Mapping[str, Any]) -> None:
        """Every prompt will do."""

    def score(self, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> list[Score | ScoreFailure]:
        verdicts: list[Score | ScoreFailure | None] = [
            _refusal(prompt, image) for prompt, image in zip(prompts, images, strict=True)
        ]
        places = [place for place, verdict in enumerate(verdicts) if verdict is None]
        if places:
            texts = list(dict.fromkeys(prompts[place].text for place in places))
            text_UD, unread_U = self._embed_texts(texts)
            image_SD = self._embed_images([images[place] for place in places])
            rows = [texts.index(prompts[place].text) for place in places]
            cosine_S = (text_UD[rows] * image_SD).sum(1).clamp(-1, 1).tolist()
            for place, row, cosine in zip(places, rows, cosine_S, strict=True):
                value = self._value(cosine)
                breakdown = {"preference": value, "cosine": cosine, "unread_tokens": float(unread_U[row])}
                verdicts[place] = Score(value=value, breakdown=breakdown)
        return [verdict for verdict in verdicts if verdict is not None]

    def _value(self, cosine: float) -> float:
        return self._scale * cosine / 100 if self._pick_score else _CLIP_SCORE_WEIGHT * max(cosine, 0.0)

    @torch.inference_mode()
    def _embed_texts(self, texts: Sequence[str]) -> tuple[Tensor, list[int]]:
        """[U, D] float64 directions of the texts, and how many tokens of each lie beyond the window."""
        whole = self._tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        unread_U = [max(0, len(tokens) - self._window) for tokens in whole]
        if any(unread_U) and not self._warned:
            self._warned = True
            longest = texts[unread_U.index(max(unread_U))]
            log.warning(
                "the text window holds %d tokens; judged by its beginning: %r (and others like it)", self._window, longest
            )
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, max_length=self._window, return_tensors="pt")
        inputs = {name: tokens[name].to(self._model.device) for name in ("input_ids", "attention_mask")}
        return normalize(self._model.get_text_features(**inputs).pooler_output.double(), dim=1).cpu(), unread_U

    @torch.inference_mode()
    def _embed_images(self, images: Sequence[Tensor]) -> Tensor:
        """[S, D] float64 directions of the pictures."""
        pixels = self._processor(
            images=[image.numpy() for image in images], return_tensors="pt", input_data_format="channels_last"
        )
        features = self._model.get_image_features(pixel_values=pixels["pixel_values"].to(self._model.device))
        return normalize(features.pooler_output.double(), dim=1).cpu()


def _refusal(prompt: Prompt, image_HW3: Tensor) -> ScoreFailure | None:
    """Why an item cannot be judged, if so: it must not take the others of its batch along."""
    try:
        require_modest_aspect(image_HW3)
        prompt.text.encode()  # half a surrogate pair, which JSON can spell, has no tokens
    except ValueError as error:
        return ScoreFailure(reason=str(error))
    return None


def _load(path: Path) -> tuple[Any, Any, Any]:
    """Model, image processor and tokenizer of a CLIP checkpoint."""
    from transformers import AutoConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    try:
        kind = AutoConfig.from_pretrained(path, local_files_only=True).model_type
        if kind != "clip":
            raise ValueError(f"its model_type is {kind!r}, but only 'clip' has the logit scale that the formulas need")
        model = load_model(CLIPModel, path)
        processor = CLIPImageProcessorPil.from_pretrained(path, local_files_only=True)
        # a prompt that spells out <|endoftext|> must not end there
        tokenizer = CLIPTokenizer.from_pretrained(path, local_files_only=True, split_special_tokens=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"reward.path {path} is no CLIP checkpoint in transformers' format with safetensors: {error}"
        ) from error
    return model, processor, tokenizer
