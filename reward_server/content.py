"""What one item is known by, wherever it is remembered."""

import json
from hashlib import blake2b

from torch import Tensor

from unigrpo.types import Prompt


def content_hash(prompt: Prompt, picture: bytes) -> str:
    """32 hexadecimal digits of all that is told of one item: the prompt's text and metadata, and the picture's bytes.

    The prompt's index does not count. Raises TypeError or ValueError for metadata that is not JSON.
    """
    told = json.dumps([prompt.text, dict(prompt.metadata)], sort_keys=True, allow_nan=False).encode()
    content = blake2b(len(told).to_bytes(8) + told, digest_size=16)
    content.update(picture)
    return content.hexdigest()


def picture_digest(image_HW3: Tensor) -> str:
    """Names the pixels of a picture, and their shape."""
    digest = blake2b(json.dumps(list(image_HW3.shape)).encode(), digest_size=32)
    digest.update(image_HW3.contiguous().numpy().tobytes())
    return digest.hexdigest()
