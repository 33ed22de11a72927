"""Reading rendered pictures with RapidOCR's own models."""

import logging
import math
import random
import string
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from configs.verifiers import OcrReward
from reward_server.verifiers import ocr, validate_metadata
from reward_server.verifiers.ocr import OcrVerifier, bundled_models, reading_order
from unigrpo.types import Prompt, Score, ScoreFailure


@pytest.fixture(scope="module")
def verifier() -> OcrVerifier:
    return OcrVerifier(OcrReward())


def drawn(*lines: str, size: int = 40, side: int = 320, tilt: float = 0, color: str = "black", on: str = "white") -> Tensor:
    """A square picture with lines of text in its middle, turned by `tilt` degrees."""
    picture = Image.new("RGB", (side, side), on)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=size)
    for number, line in enumerate(lines):
        height = side / 2 + (number - len(lines) / 2 + 0.5) * 1.3 * size
        pen.text((side / 2, height), line, fill=color, font=font, anchor="mm")
    return torch.from_numpy(np.array(picture.rotate(tilt, Image.Resampling.BICUBIC, fillcolor=on)))


def judged(verifier: OcrVerifier, text: str, *images: Tensor) -> list[Score]:
    verdicts = verifier.score([Prompt(index=0, text=text, metadata={})] * len(images), images)
    assert all(isinstance(verdict, Score) for verdict in verdicts)
    return [verdict for verdict in verdicts if isinstance(verdict, Score)]


def test_right_text_is_perfect_small_large_and_tilted(verifier: OcrVerifier) -> None:
    images = [
        drawn("OPEN LATE", size=12),
        drawn("OPEN LATE", size=56),
        drawn("OPEN LATE", tilt=8),
        drawn("OPEN", "LATE", tilt=-8),
    ]
    scores = judged(verifier, 'a neon sign "Open Late"', *images)
    assert [score.value for score in scores] == [1.0] * 4
    assert scores[0].breakdown == {"ocr": 1.0, "read": "OPEN LATE", "wanted": "Open Late"}
    assert scores[3].breakdown["read"] == "OPEN / LATE"


def test_less_of_the_text_is_worth_less(verifier: OcrVerifier) -> None:
    images = [drawn(text) for text in ("GRAND OPENING", "GRAMD OPENING", "GRAND", "MUSIC BOX", "")]
    right, one_wrong, half, other, blank = [score.value for score in judged(verifier, '"GRAND OPENING"', *images)]
    assert [right, one_wrong, half, blank] == pytest.approx([1, 11 / 12, 5 / 12, 0])
    assert 0 <= other < half


def test_text_beside_the_wanted_one_costs_a_little_and_a_page_of_it_nearly_all(verifier: OcrVerifier) -> None:
    draw = random.Random(0)
    page = ["".join(draw.choices(string.ascii_uppercase + " ", k=22)) for _ in range(11)]
    beside, covered = judged(verifier, '"OPEN LATE"', drawn("OPEN LATE", "AT NIGHT"), drawn(*page, size=20))
    assert beside.value == pytest.approx(8 / (8 + 7 / 4))
    assert len(str(covered.breakdown["read"])) > 200
    assert covered.value < 0.1


def test_colours_reach_the_reader_as_they_are(verifier: OcrVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []

    def reads_nothing(pixels: np.ndarray) -> Any:
        seen.append(pixels)
        return SimpleNamespace(boxes=None)

    monkeypatch.setattr(verifier, "_reader", reads_nothing)
    judged(verifier, '"STOP"', drawn(on="red"))
    assert seen[0][0, 0].tolist() == [0, 0, 255]  # RapidOCR takes blue, green, red


def test_capitals_count_where_asked() -> None:
    [score] = judged(OcrVerifier(OcrReward(case_sensitive=True)), '"Open"', drawn("OPEN"))
    assert score.value == 1 / 4


def test_the_metadatas_text_is_looked_for(verifier: OcrVerifier) -> None:
    [verdict] = verifier.score([Prompt(index=0, text="a sign", metadata={"text": ["OPEN", "24h"]})], [drawn("OPEN", "24h")])
    assert verdict == Score(value=1.0, breakdown={"ocr": 1.0, "read": "OPEN / 24h", "wanted": "OPEN / 24h"})


def test_what_cannot_be_judged_fails_alone(verifier: OcrVerifier) -> None:
    prompts = [Prompt(index=0, text=text, metadata={}) for text in ("a cat", '"HI"', '"HI"')]
    verdicts = verifier.score(prompts, [drawn("HI"), torch.zeros(9, 1, 3, dtype=torch.uint8), drawn("HI")])
    assert [type(verdict) for verdict in verdicts] == [ScoreFailure, ScoreFailure, Score]
    assert "quotes no text" in verdicts[0].reason  # type: ignore[union-attr]
    assert "1 x 9 pixels" in verdicts[1].reason  # type: ignore[union-attr]


def test_a_prompt_without_quoted_text_is_refused_before_a_run() -> None:
    validate_metadata(OcrReward(), {"prompt": 'a sign "OPEN"'})
    validate_metadata(OcrReward(), {"prompt": "a sign", "text": "OPEN"})
    for metadata in ({"prompt": "a sign"}, {}):
        with pytest.raises(ValueError, match="quotes no text"):
            validate_metadata(OcrReward(), metadata)


def test_a_missing_model_is_named_and_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "_MODELS", {**ocr._MODELS, "Rec": "absent.onnx"})
    with pytest.raises(ValueError, match=r"rapidocr is installed without .*absent\.onnx"):
        OcrVerifier(OcrReward())


def test_the_models_are_the_packages_own_and_run_on_one_thread(verifier: OcrVerifier) -> None:
    import rapidocr

    judged(verifier, '"HI"', drawn("HI"))
    for stage, engine in (("Det", verifier._reader.text_det), ("Rec", verifier._reader.text_rec)):
        assert bundled_models()[stage].is_relative_to(Path(rapidocr.__file__).parent)
        assert verifier._reader.cfg[stage].model_path == str(bundled_models()[stage])
        options = engine.session.session.get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert verifier._reader.text_cls is None


def test_reading_is_silent(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        judged(OcrVerifier(OcrReward()), '"HI"', drawn("HI"), drawn(""))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_the_version_knows_the_setting() -> None:
    versions = [OcrVerifier(OcrReward(case_sensitive=setting)).version for setting in (False, True, False)]
    assert versions[0] == versions[2] != versions[1]


def box(x: float, y: float, *, width: float = 40, height: float = 20, tilt: float = 0) -> Any:
    """Corners of a box about (x, y), all turned about the origin by `tilt` degrees."""
    corners = [(x + sx * width / 2, y + sy * height / 2) for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    sine, cosine = math.sin(math.radians(tilt)), math.cos(math.radians(tilt))
    return [(cosine * x - sine * y, sine * x + cosine * y) for x, y in corners]


@pytest.mark.parametrize("tilt", [-20, 0, 20])
def test_reading_order_is_line_by_line_however_the_picture_is_tilted(tilt: float) -> None:
    places = {"d": (90, 62), "a": (0, 0), "c": (0, 60), "b": (300, 7), "e": (120, 130)}
    boxes = np.array([box(*place, tilt=tilt) for place in places.values()])
    assert reading_order(boxes, list(places)) == ["a b", "c d", "e"]


def test_a_small_word_beside_a_large_one_is_on_its_line() -> None:
    boxes = np.array([box(200, 30, height=30), box(0, 0, height=100), box(100, 120)])
    assert reading_order(boxes, ["to", "UP", "below"]) == ["UP to", "below"]
