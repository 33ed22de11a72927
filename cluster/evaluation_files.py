"""What an evaluation leaves in a folder: pictures in GenEval's layout, a row a picture, the scores and a sheet to look at.

00000/metadata.jsonl, 00000/samples/0000.png    of a policy's pictures, for GenEval's own scorer or `unigrpo evaluate`
scores.jsonl                                    a line a picture: image, prompt, thought, score, breakdown
sheet.png                                       some of the pictures with prompt, thought and score
config.yaml                                     what evaluates them, read when the folder is evaluated again
scores.json                                     the summary; written last
"""

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from cluster.rollouts import Unjudged, paintings_of
from cluster.samples import score_caption
from cluster.summary import Judged, category
from configs.load import dump
from configs.schema import TrainConfig
from unigrpo.gallery import contact_sheet
from unigrpo.geneval_folder import read_picture, write_painted_prompt

SHEET_PICTURES = 64
CAPTION_CHARACTERS = 240
"""Of a prompt or thought on the sheet; the rows hold them whole."""

Row = dict[str, Any]


def write_pictures(folder: Path, group: Unjudged, *, timeout: float) -> list[str]:
    """Write the pictures of one prompt of a policy below `folder`; their names there."""
    [paintings] = paintings_of([group], timeout=timeout)
    return write_painted_prompt(folder, group.prompt, [painting.image_HW3 for painting in paintings])


def write_config(folder: Path, config: TrainConfig) -> None:
    """Write down what evaluates the pictures."""
    (folder / "config.yaml").write_text(dump(config), encoding="utf-8")


def picture_rows(judged: Judged, images: Sequence[str], thoughts: Sequence[str | None]) -> list[Row]:
    """A row for each picture of a prompt; `images` are their names below the folder of pictures."""
    return [
        {
            "image": image,
            "prompt": judged.prompt.text,
            "tag": category(judged.prompt),
            "thought": thought,
            "score": score.value,
            "breakdown": dict(score.breakdown),
        }
        for image, thought, score in zip(images, thoughts, judged.scores, strict=True)
    ]


def write_scores(folder: Path, scores: Mapping[str, Any], rows: Sequence[Row], *, pictures: Path) -> None:
    """Write what judging the pictures, which lie below `pictures`, came to into `folder`."""
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shown = rows[:: -(-len(rows) // SHEET_PICTURES)]
    contact_sheet([_tile(row, pictures) for row in shown]).save(folder / "sheet.png")
    (folder / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")


def _tile(row: Row, pictures: Path) -> tuple[Image.Image, list[str]]:
    texts = [text for text in (row["prompt"], row["thought"]) if text is not None]
    caption = [textwrap.shorten(text, CAPTION_CHARACTERS, placeholder=" ...") for text in texts]
    caption += score_caption(row["score"], row["breakdown"])
    return Image.fromarray(read_picture(pictures / row["image"]).numpy()), caption
