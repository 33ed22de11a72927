"""A picture that several questions are asked about."""

import threading

from torch import Tensor

from unigrpo.pictures import encode_png


class SharedPicture:
    """Encoded when the first question takes it, forgotten when the last one has. For several threads."""

    def __init__(self, image_HW3: Tensor, *, num_questions: int) -> None:
        self._image = image_HW3
        self._left = num_questions
        self._png: bytes | None = None
        self._lock = threading.Lock()

    def take(self) -> bytes:
        """Its PNG, which each question takes once. Raises ValueError for a picture without pixels."""
        with self._lock:
            if self._png is None:
                self._png = encode_png(self._image)
            png = self._png
            self._left -= 1
            if not self._left:
                self._png = None
            return png
