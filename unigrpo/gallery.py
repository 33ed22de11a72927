"""Pictures with their captions on one sheet, to be looked at before any number is read."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle

from PIL import Image, ImageDraw, ImageFont

TILE = 192
"""Side of the square that a picture is scaled to, in pixels."""
MARGIN = 12
"""Pixels around every picture, text block and title."""
SHEET_COLUMNS = 8
"""Pictures in a row of a sheet."""
LINE_CHARACTERS = 30
"""Longest line of a caption; longer ones are wrapped."""
LINE_PIXELS = 15
"""Height of a line of text."""
TITLE_PIXELS = 22
"""Height of a column's title."""
INK, PAPER = (32, 33, 36), (255, 255, 255)

Tile = tuple[Image.Image, Sequence[str]]
"""A picture of any size and the lines of its caption."""


def contact_sheet(tiles: Sequence[Tile], *, columns: int = SHEET_COLUMNS) -> Image.Image:
    """Pictures in rows of `columns`, each over its wrapped caption; one sheet, RGB. Raises ValueError for no tiles."""
    if not tiles:
        raise ValueError("a contact sheet needs at least one picture, but got none")
    columns = min(columns, len(tiles))
    captions = [_wrapped(lines) for _, lines in tiles]
    text_height = LINE_PIXELS * max(len(lines) for lines in captions)
    width, height = TILE + MARGIN, TILE + text_height + 2 * MARGIN
    sheet = Image.new("RGB", (columns * width + MARGIN, -(-len(tiles) // columns) * height + MARGIN), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for index, ((picture, _), lines) in enumerate(zip(tiles, captions, strict=True)):
        left, top = MARGIN + index % columns * width, MARGIN + index // columns * height
        sheet.paste(_scaled(picture), (left, top))
        for line, text in enumerate(lines):
            draw.text((left, top + TILE + MARGIN // 2 + line * LINE_PIXELS), text, fill=INK, font=font)
    return sheet


def side_by_side(columns: Mapping[str, Sequence[Tile]]) -> Image.Image:
    """Titled columns of pictures in one order, such as before and after: the i-th tiles stand together, several i to a row.

    Raises ValueError for columns of different lengths, or for none.
    """
    if not columns or len({len(tiles) for tiles in columns.values()}) != 1:
        lengths = {title: len(tiles) for title, tiles in columns.items()}
        raise ValueError(f"columns side by side need equally many pictures, but got {lengths}")
    rows = zip(*columns.values(), strict=True)
    sheet = contact_sheet([tile for row in rows for tile in row], columns=len(columns) * max(1, SHEET_COLUMNS // len(columns)))
    titled = Image.new("RGB", (sheet.width, sheet.height + TITLE_PIXELS), PAPER)
    titled.paste(sheet, (0, TITLE_PIXELS))
    draw, font = ImageDraw.Draw(titled), ImageFont.load_default(size=16)
    for index, title in zip(range(sheet.width // (TILE + MARGIN)), cycle(columns), strict=False):
        draw.text((MARGIN + index * (TILE + MARGIN), MARGIN // 2), title, fill=INK, font=font)
    return titled


def _wrapped(lines: Sequence[str]) -> list[str]:
    return [piece for line in lines for piece in textwrap.wrap(line, LINE_CHARACTERS) or [""]]


def _scaled(picture: Image.Image) -> Image.Image:
    """The picture at TILE on its longer side: whole pixels stay crisp when enlarged, large pictures are averaged down."""
    enlarge = max(picture.size) <= TILE
    scale = TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.NEAREST if enlarge else Image.Resampling.LANCZOS)
