"""What a picture's header tells before anything of it is decoded."""

from io import BytesIO

from PIL import Image

from unigrpo.pictures import FORMATS, header_fault


def count_pixels(content: bytes, *, max_pixels: int) -> int:
    """Height times width of an encoded picture.

    Raises ValueError for all that `unigrpo.pictures.decode_picture` refuses without decoding: another format, a header that
    cannot be read, more than `max_pixels` pixels, several frames, more than 8 bits a channel.
    """
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as picture:
            fault, pixels = header_fault(picture, max_pixels), picture.width * picture.height
    except MemoryError:
        raise
    except Exception:  # Pillow's readers of damaged files raise TypeError, IndexError, struct.error and more
        raise ValueError(f"the header of its {len(content)} bytes cannot be read; send {' or '.join(FORMATS)}") from None
    if fault is not None:
        raise ValueError(fault)
    return pixels
