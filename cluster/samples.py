"""The gallery of a step: every picture with its prompt, thought and reward, to be looked at before any number is read."""

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from cluster.rollouts import Group, paintings_of
from unigrpo.gallery import LINE_CHARACTERS, contact_sheet

CAPTION_LINES = 8
"""Of a score; the rows hold it whole."""


def write_samples(
    folder: Path, groups: Sequence[Group], *, limit: int, decode: Callable[[Sequence[int]], str], timeout: float
) -> None:
    """Write up to `limit` samples of `groups`, whole groups first: PNGs, samples.jsonl and one sheet.png."""
    groups = groups[: -(-limit // len(groups[0].scores))]
    folder.mkdir(parents=True, exist_ok=True)
    rows, tiles = [], []
    for group, paintings in zip(groups, paintings_of(groups, timeout=timeout), strict=True):
        for sibling, (thought, score, painting) in enumerate(zip(group.thoughts_G, group.scores, paintings, strict=True)):
            name = f"{group.prompt.index:05d}-{sibling:02d}.png"
            picture = Image.fromarray(painting.image_HW3.numpy())
            picture.save(folder / name)
            text = None if thought is None else decode(thought.token_ids)
            rows.append(
                {
                    "image": name,
                    "prompt": group.prompt.text,
                    "thought": text,
                    "reward": score.value,
                    "breakdown": dict(score.breakdown),
                    "group": group.prompt.index,
                    "sibling": sibling,
                }
            )
            told = [group.prompt.text] if text is None else [group.prompt.text, text]
            tiles.append((picture, [*told, *score_caption(score.value, score.breakdown)]))
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:limit]), encoding="utf-8")
    contact_sheet(tiles[:limit]).save(folder / "sheet.png")


def score_caption(value: float, breakdown: Mapping[str, float | str]) -> list[str]:
    """Lines of a caption with a score and the numbers of its breakdown. Example: ["score .67", "graded .67  strict 0"]."""
    numbers = [f"{name} {_short(part)}" for name, part in breakdown.items() if not isinstance(part, str)]
    whole = "  ".join(each.replace(" ", "\0") for each in numbers)  # a name and its number stay together
    wrapped = textwrap.wrap(whole, LINE_CHARACTERS, max_lines=CAPTION_LINES, placeholder=" ...", break_on_hyphens=False)
    return [f"score {_short(value)}", *(line.replace("\0", " ") for line in wrapped)]


def _short(number: float) -> str:
    """At most two decimals and no idle zeros. Example: 0.667 -> ".67", 1.0 -> "1", 0.004 -> "0"."""
    text = f"{number:.2f}".rstrip("0").rstrip(".")
    return text.replace("0.", ".", 1) if abs(number) < 1 else text


def spread(groups: Sequence[Group], limit: int) -> list[Group]:
    """At most `limit` groups (one at least) at even distances, so that every category shows."""
    stride = -(-len(groups) // max(1, limit))
    return list(groups[::stride])
