"""OCR: how much of the text that a prompt quotes can be read in the picture, by RapidOCR's own models (PP-OCRv6, small).

Upright text, tilted a little or not; text upside down is not read, since RapidOCR's model for turning it is left out. What
counts as wanted and how much of it was read is lettering.py's part.
"""

import importlib.metadata
import importlib.util
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from configs.verifiers import OcrReward
from reward_server.aspect import require_modest_aspect
from reward_server.fingerprint import fingerprint
from reward_server.lettering import readable_share, wanted_parts
from reward_server.verifiers.base import LocalVerifier, judge_each
from unigrpo.types import Prompt, Score, ScoreFailure

_MODELS = {"Det": "PP-OCRv6_det_small.onnx", "Rec": "PP-OCRv6_rec_small.onnx"}
"""RapidOCR's name of a stage -> the model inside its package. Named here, as RapidOCR downloads what it does not find."""
_MAX_SIDE = 2000
"""Pixels to which a longer picture is shrunk; reading one takes half a GB more than a small one."""
_SHOWN = 500
"""Letters of the reading that a breakdown shows."""


class OcrVerifier(LocalVerifier):
    """Judges by the share of the quoted text that is read (lettering.readable_share).

    Raises ValueError where a model is missing from the installed RapidOCR.
    """

    breakdown_keys = frozenset({"ocr", "read", "wanted"})

    def __init__(self, config: OcrReward) -> None:
        models = bundled_models()
        self.version = fingerprint(*models.values(), settings={"case_sensitive": config.case_sensitive, **_library_versions()})
        self._case_sensitive = config.case_sensitive
        self._reader = _reader(models)

    @staticmethod
    def validate_metadata(config: OcrReward, metadata: Mapping[str, Any]) -> None:
        wanted_parts(metadata, str(metadata.get("prompt", "")))

    def score(self, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> list[Score | ScoreFailure]:
        return judge_each(self._judge, prompts, images)

    def _judge(self, prompt: Prompt, image: Tensor) -> Score:
        wanted = wanted_parts(prompt.metadata, prompt.text)
        lines = self._read(image)
        value = readable_share(wanted, lines, case_sensitive=self._case_sensitive)
        return Score(value=value, breakdown={"ocr": value, "read": " / ".join(lines)[:_SHOWN], "wanted": " / ".join(wanted)})

    def _read(self, image_HW3: Tensor) -> list[str]:
        """The lines of a picture, top to bottom."""
        require_modest_aspect(image_HW3)
        answer = self._reader(np.ascontiguousarray(image_HW3.numpy()[..., ::-1]))  # RapidOCR takes arrays for BGR
        return [] if answer.boxes is None else reading_order(answer.boxes, answer.txts)


def bundled_models() -> dict[str, Path]:
    """The models inside the installed RapidOCR, by stage. Raises ValueError, naming it, for one that is missing."""
    spec = importlib.util.find_spec("rapidocr")
    if spec is None or spec.origin is None:
        raise ValueError("reward.kind ocr needs the package rapidocr, which is not installed; run `make setup`")
    models = {stage: Path(spec.origin).parent / "models" / name for stage, name in _MODELS.items()}
    if missing := [str(path) for path in models.values() if not path.is_file()]:
        raise ValueError(f"rapidocr is installed without {', '.join(missing)}; install rapidocr==3.10.0, whose wheel holds it")
    return models


def _library_versions() -> dict[str, str]:
    """What prepares a picture, runs the models and finds boxes."""
    import cv2

    return {"opencv": cv2.__version__, **{name: importlib.metadata.version(name) for name in ("rapidocr", "onnxruntime")}}


def _reader(models: Mapping[str, Path]) -> Any:
    """A silent RapidOCR of the given models, on one thread: several replicas share a machine."""
    from rapidocr import RapidOCR

    return RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.use_cls": False,
            "Global.max_side_len": _MAX_SIDE,
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            **{f"{stage}.model_path": str(path) for stage, path in models.items()},
        }
    )


def reading_order(boxes_B42: np.ndarray, texts: Sequence[str]) -> list[str]:
    """Texts of one picture joined to lines, top to bottom and left to right.

    boxes_B42: [B, 4, 2] corners (x, y) of each text's box, clockwise from its own top left. The picture is first turned upright
    by the median tilt of the boxes. Two boxes share a line where the centre of one is level with the other.
    """
    tilt = statistics.median(math.atan2(*(box[1] - box[0])[::-1]) for box in boxes_B42)
    upright = boxes_B42 @ np.array([[math.cos(tilt), -math.sin(tilt)], [math.sin(tilt), math.cos(tilt)]])
    lines: list[list[int]] = []
    for number in np.argsort(upright[:, :, 1].mean(1), kind="stable"):
        if lines and _level(upright[lines[-1][0]], upright[number]):
            lines[-1].append(number)
        else:
            lines.append([number])
    return [" ".join(texts[number] for number in sorted(line, key=lambda number: upright[number, 0, 0])) for line in lines]


def _level(one_42: np.ndarray, other_42: np.ndarray) -> bool:
    """Whether the centre of one of two upright boxes lies within the height of the other."""
    heights = [(box[2:, 1].mean() - box[:2, 1].mean()) for box in (one_42, other_42)]
    return bool(abs(one_42[:, 1].mean() - other_42[:, 1].mean()) < max(heights) / 2)
