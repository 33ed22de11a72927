"""Seeds that belong to samples: a function of what is sampled, never of the worker, rank or batch that samples it."""

import json
from hashlib import blake2b


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from the parts that name one random draw; equal parts give equal seeds on every machine.

    Example: derive_seed(run_seed, "thought", step, prompt_index, sibling). The order, number and type of the parts count.

    Raises:
        TypeError: a part is neither int nor str, such as a numpy or torch integer; convert it first.
    """
    for part in parts:
        if type(part) not in (int, str):
            raise TypeError(f"a seed is made of int and str, but got {part!r} of {type(part).__name__}; convert it first")
    digest = blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
