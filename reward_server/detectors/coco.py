"""The 80 object classes of COCO, in COCO's order and in GenEval's spelling."""

from collections.abc import Mapping

# fmt: off
CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light", "fire hydrant",
    "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra",
    "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork",
    "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut",
    "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "computer mouse", "tv remote",
    "computer keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase",
    "scissors", "teddy bear", "hair drier", "toothbrush",
)
# fmt: on
_OTHER_SPELLINGS = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
    "mouse": "computer mouse",
    "remote": "tv remote",
    "keyboard": "computer keyboard",
}
"""How checkpoints write the classes that GenEval writes differently: COCO's own names, and those of older label files."""


def require_coco_classes(id2label: Mapping[int, str]) -> None:
    """Raise ValueError unless the `id2label` of a checkpoint's config names CLASSES, in that order, and nothing else."""
    if len(id2label) != len(CLASSES):
        raise ValueError(f"the detector names {len(id2label)} classes; give one trained on COCO instances, which names 80")
    for index, label in enumerate(CLASSES):
        given = id2label.get(index)
        if given is None or _OTHER_SPELLINGS.get(given, given) != label:
            raise ValueError(
                f"the detector's class {index} is {given!r}, but COCO's is {label!r}; give a checkpoint trained on COCO "
                "instances whose config.json names its classes in id2label"
            )
