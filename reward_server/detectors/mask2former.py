"""Objects of a photograph: Mask2Former finds them, CLIP names their colours when somebody asks.

The settings are those of GenEval's evaluation and its mmdet configuration (Swin-S, 100 queries, COCO instances): the shorter
side at 800 pixels unless the longer one would pass 1333, normalised, padded with zeros to a multiple of 32. Two things differ,
so that scores near a threshold may: the weights that transformers can read (facebook/mask2former-swin-small-coco-instance) are
the authors' own training of the same model, GenEval's are mmdet's; and Pillow resizes, where mmdet has OpenCV do it.

Unproven: the whole on real photographs, since there are no weights where this was written. Its parts are tested on random
weights and on hand-made masks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from reward_server.detections import Box
from reward_server.detectors.coco import CLASSES, require_coco_classes
from reward_server.detectors.colors import ClipEmbedder, ColorNamer
from reward_server.detectors.instances import Instance, Sizes, instances
from reward_server.detectors.pretrained import load_model

SIZE = {"shortest_edge": 800, "longest_edge": 1333}
"""Of what the model sees, as published. The released folder's own preprocessor says 384 x 384, which squeezes every picture."""


@dataclass(frozen=True)
class Sighting:
    """One object of a photograph."""

    label: str
    """One of coco.CLASSES."""
    box: Box
    """x1, y1, x2, y2 in pixels."""
    score: float
    """In [0, 1]."""
    name_color: Callable[[], str] = field(repr=False)
    """Looks at the object."""

    @cached_property
    def color(self) -> str:
        """One of colors.COLORS. Named when first read: CLIP is the slow part, and most prompts ask for no colour."""
        return self.name_color()


@dataclass(frozen=True, slots=True)
class Sightings:
    """All that was seen in one photograph."""

    objects: tuple[Sighting, ...]
    """Candidates whose class probability is above the detector's floor."""
    unrecognised: int = 0
    """Always 0: this detector names all that it sees."""


class PhotoDetector:
    """Answers the objects of photographs [H, W, 3] uint8 that could score above `floor`."""

    def __init__(self, path: Path, namer: ColorNamer, *, floor: float) -> None:
        from transformers import Mask2FormerImageProcessorPil

        from reward_server.detectors.segmenter import Segmenter

        self._model = load_model(Segmenter, path)
        require_coco_classes(self._model.config.id2label)
        self._processor = Mask2FormerImageProcessorPil(size=SIZE, size_divisor=32)
        self._namer = namer
        self._floor = floor

    @torch.inference_mode()
    def __call__(self, image_HW3: Tensor) -> Sightings:
        content_1CHW = self._content(image_HW3)
        height, width = content_1CHW.shape[2:]
        below, beside = -height % self._processor.size_divisor, -width % self._processor.size_divisor
        padded_1CHW = pad(content_1CHW, (0, beside, 0, below)).to(self._model.device)
        class_logits_1QC, mask_logits_1Qhw = self._model(padded_1CHW)
        sizes = Sizes((height + below, width + beside), (height, width), (image_HW3.shape[0], image_HW3.shape[1]))
        found = instances(class_logits_1QC[0], mask_logits_1Qhw[0], sizes, floor=self._floor)
        return Sightings(tuple(self._sighting(image_HW3, instance) for instance in found))

    def _sighting(self, image_HW3: Tensor, seen: Instance) -> Sighting:
        label = CLASSES[seen.label]
        return Sighting(label, seen.box, seen.score, partial(self._namer.name, image_HW3, seen.mask_HW, seen.box, label))

    def _content(self, image_HW3: Tensor) -> Tensor:
        """[1, C, H, W] float32, resized with its aspect ratio kept, and normalised.

        The processor left to itself would stretch both sides to the multiple; as published they are padded.
        """
        pixels = self._processor(
            images=image_HW3.numpy(), size_divisor=0, input_data_format="channels_last", return_tensors="pt"
        )
        content: Tensor = pixels["pixel_values"]
        return content


def photo_detector(detector_path: Path, clip_path: Path, *, floor: float) -> PhotoDetector:
    """The detector of two folders: a Mask2Former trained on COCO instances, and a CLIP."""
    return PhotoDetector(detector_path, ColorNamer(ClipEmbedder(clip_path)), floor=floor)
