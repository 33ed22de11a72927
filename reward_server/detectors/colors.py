"""Naming an object's colour with CLIP: GenEval's zero-shot classifier over ten colours (arXiv:2310.11513, evaluate_images.py).

The object is cut out along its mask onto grey, cropped to its box, and compared with three phrases a colour that name the
object's class. The published evaluation runs CLIP under float16 autocast; here it is float32.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from reward_server.detections import Box
from reward_server.detectors.pretrained import load_model

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
"""GenEval's colours, in the order in which its reasons list them."""
PHRASES = ("a photo of a {color} {label}", "a photo of a {color}-colored {label}", "a photo of a {color} object")
_GREY = 0x99
"""What surrounds an object, on each channel."""


class Embedder(Protocol):
    """What places texts and pictures in one space."""

    def texts(self, texts: Sequence[str]) -> Tensor:
        """[N, D], each of length 1."""

    def picture(self, picture_HW3: Tensor) -> Tensor:
        """[D] of length 1, from uint8."""


class ColorNamer:
    """Names the colour of objects; the phrases of a class are embedded once."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._classifiers: dict[str, Tensor] = {}

    def name(self, image_HW3: Tensor, mask_HW: Tensor, box: Box, label: str) -> str:
        """One of COLORS for the object of class `label`. Raises ValueError when its scores are not finite."""
        if label not in self._classifiers:
            phrases = [phrase.format(color=color, label=label) for color in COLORS for phrase in PHRASES]
            self._classifiers[label] = class_directions(self._embedder.texts(phrases), len(COLORS))
        score_K = self._classifiers[label] @ self._embedder.picture(cut_out(image_HW3, mask_HW, box))
        if not score_K.isfinite().all():
            raise ValueError(f"the colours of a {label} scored {score_K.tolist()}; CLIP's weights are broken")
        return COLORS[int(score_K.argmax())]


def class_directions(embedding_ND: Tensor, num_classes: int) -> Tensor:
    """[K, D] of length 1: the mean direction of each class's phrases, N = K * phrases, class by class (CLIP's ensemble)."""
    return normalize(embedding_ND.unflatten(0, (num_classes, -1)).mean(1), dim=-1)


def cut_out(image_HW3: Tensor, mask_HW: Tensor, box: Box) -> Tensor:
    """The picture within its box [x1, y1, x2, y2), grey outside the bool mask; uint8."""
    x1, y1, x2, y2 = map(round, box)
    return torch.where(mask_HW[y1:y2, x1:x2, None], image_HW3[y1:y2, x1:x2], _GREY)


def centre_square(picture_HW3: Tensor, size: int) -> Tensor:
    """[size, size, 3] uint8: the shorter side scaled to `size` (bicubic, antialiased), then the centre of the longer one.

    Only the centre is computed, since the whole of a very long picture would not fit into memory; the width first, then the
    height, since Pillow rounds and clips between the two.
    """
    height, width = picture_HW3.shape[:2]
    left, right = _centre(width, min(height, width), size)
    top, bottom = _centre(height, min(height, width), size)
    picture = Image.fromarray(picture_HW3.contiguous().numpy())
    narrow = picture.resize((size, height), Image.Resampling.BICUBIC, box=(left, 0, right, height))
    square = narrow.resize((size, size), Image.Resampling.BICUBIC, box=(0, top, size, bottom))
    return torch.from_numpy(np.array(square))


def _centre(side: int, shorter: int, size: int) -> tuple[float, float]:
    """Where along a side, in pixels, the `size` central ones of the scaled side begin and end."""
    scaled = size * side // shorter
    first = round((scaled - size) / 2)
    return first * side / scaled, min((first + size) * side / scaled, side)


class ClipEmbedder:
    """A CLIP of transformers, from a folder with its tokenizer and preprocessor_config.json (published: OpenAI's ViT-L/14)."""

    def __init__(self, path: Path) -> None:
        from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

        self._model = load_model(CLIPModel, path)
        self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        processor = CLIPImageProcessorPil.from_pretrained(path, local_files_only=True)
        self._mean_C = torch.tensor(processor.image_mean)
        self._std_C = torch.tensor(processor.image_std)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        tokens = self._tokenizer(list(texts), padding=True, return_tensors="pt").to(self._model.device)
        return normalize(self._model.get_text_features(**tokens).pooler_output, dim=-1).cpu()

    @torch.inference_mode()
    def picture(self, picture_HW3: Tensor) -> Tensor:
        square_HW3 = centre_square(picture_HW3, self._model.config.vision_config.image_size)
        pixels_HWC = (square_HW3 / 255 - self._mean_C) / self._std_C
        pixels_1CHW = pixels_HWC.permute(2, 0, 1)[None].to(self._model.device)
        return normalize(self._model.get_image_features(pixel_values=pixels_1CHW).pooler_output, dim=-1)[0].cpu()
