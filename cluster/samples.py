"""The gallery of a step: every picture with its prompt, thought and reward, to be looked at before any number is read."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from cluster.rollouts import Group, paintings_of
from unigrpo.gallery import contact_sheet


def write_samples(
    folder: Path, groups: Sequence[Group], *, limit: int, decode: Callable[[Sequence[int]], str], timeout: float
) -> None:
    """Write up to `limit` samples of `groups`, whole groups first: PNGs, samples.jsonl and one sheet.png."""
    groups = groups[: -(-limit // len(groups[0].scores))]
    folder.mkdir(parents=True, exist_ok=True)
    rows, tiles = [], []
    for group, paintings in zip(groups, paintings_of(groups, timeout=timeout), strict=True):
        for sibling, (thought, score, painting) in enumerate(zip(group.thoughts, group.scores, paintings, strict=True)):
            name = f"{group.prompt.index:05d}-{sibling:02d}.png"
            picture = Image.fromarray(painting.image_HW3.numpy())
            picture.save(folder / name)
            text = decode(thought.token_ids)
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
            tiles.append((picture, [group.prompt.text, text, f"reward {score.value:.2f}"]))
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:limit]), encoding="utf-8")
    contact_sheet(tiles[:limit]).save(folder / "sheet.png")


def spread(groups: Sequence[Group], limit: int) -> list[Group]:
    """At most `limit` groups (one at least) at even distances, so that every category shows."""
    stride = -(-len(groups) // max(1, limit))
    return list(groups[::stride])
