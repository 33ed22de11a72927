"""Sheets of pictures: where each picture lands, and what its pixels become."""

import pytest
from PIL import Image

from unigrpo.gallery import MARGIN, TILE, TITLE_PIXELS, contact_sheet, side_by_side

RED, BLUE = (255, 0, 0), (0, 0, 255)
STEP = TILE + MARGIN


def _plain(color: tuple[int, int, int], size: tuple[int, int] = (24, 24)) -> Image.Image:
    return Image.new("RGB", size, color)


def _centre(sheet: Image.Image, column: int, top: int = MARGIN) -> object:
    return sheet.getpixel((MARGIN + column * STEP + TILE // 2, top + TILE // 2))


def test_pictures_stand_in_rows_over_their_captions() -> None:
    sheet = contact_sheet([(_plain(RED), ["a"]), (_plain(BLUE), ["b", "two lines"]), (_plain(RED), [])], columns=2)
    assert sheet.width == 2 * STEP + MARGIN
    assert _centre(sheet, 0) == RED
    assert _centre(sheet, 1) == BLUE
    assert _centre(sheet, 0, top=MARGIN + (sheet.height - MARGIN) // 2) == RED
    caption = sheet.crop((MARGIN, MARGIN + TILE, STEP, (sheet.height - MARGIN) // 2))
    assert min(caption.convert("L").tobytes()) < 128


def test_pixels_stay_crisp_when_enlarged() -> None:
    picture = _plain(RED, (2, 2))
    picture.putpixel((1, 0), BLUE)
    sheet = contact_sheet([(picture, [])])
    tile = sheet.crop((MARGIN, MARGIN, MARGIN + TILE, MARGIN + TILE))
    assert sorted(tile.getcolors() or []) == [(TILE * TILE // 4, BLUE), (TILE * TILE * 3 // 4, RED)]


def test_large_pictures_are_scaled_down_in_proportion() -> None:
    sheet = contact_sheet([(_plain(RED, (4 * TILE, 2 * TILE)), [])])
    assert sheet.getpixel((MARGIN + TILE - 1, MARGIN + TILE // 2 - 1)) == RED
    assert sheet.getpixel((MARGIN + TILE // 2, MARGIN + TILE // 2 + 1)) == (255, 255, 255)


def test_columns_stand_side_by_side_under_their_titles() -> None:
    tiles = {"before": [(_plain(RED), ["x"])] * 5, "after": [(_plain(BLUE), ["y"])] * 5}
    sheet = side_by_side(tiles)
    assert [_centre(sheet, column, MARGIN + TITLE_PIXELS) for column in range(8)] == [RED, BLUE] * 4
    title = sheet.crop((MARGIN, 0, sheet.width, TITLE_PIXELS))
    assert min(title.convert("L").tobytes()) < 128


def test_nothing_to_show_and_uneven_columns_are_errors() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([])
    with pytest.raises(ValueError, match=r"equally many pictures, but got \{'before': 1, 'after': 0\}"):
        side_by_side({"before": [(_plain(RED), [])], "after": []})
