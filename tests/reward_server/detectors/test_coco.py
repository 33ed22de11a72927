"""COCO's classes in GenEval's spelling, and what a checkpoint may call them."""

from pathlib import Path

import pytest

from reward_server.detectors.coco import CLASSES, require_coco_classes

NAMES = Path(__file__).parents[2] / "golden" / "geneval" / "object_names.txt"
OTHERS = {3: "motorbike", 4: "aeroplane", 57: "sofa", 58: "pottedplant", 60: "diningtable", 62: "tvmonitor"}


def test_classes_are_genevals_in_order() -> None:
    assert list(CLASSES) == NAMES.read_text().splitlines()


@pytest.mark.parametrize("others", [{}, {64: "mouse", 65: "remote", 66: "keyboard"}, OTHERS])
def test_other_spellings_are_known(others: dict[int, str]) -> None:
    require_coco_classes(dict(enumerate(CLASSES)) | others)


def test_other_orders_and_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="the detector's class 0 is 'bicycle', but COCO's is 'person'"):
        require_coco_classes(dict(enumerate(CLASSES)) | {0: "bicycle", 1: "person"})
    with pytest.raises(ValueError, match="the detector's class 0 is 'LABEL_0'"):
        require_coco_classes({index: f"LABEL_{index}" for index in range(80)})
    with pytest.raises(ValueError, match="names 133 classes"):
        require_coco_classes(dict.fromkeys(range(133), "thing"))
