"""Seeds: stable across machines, and different whenever anything that names the draw differs."""

import subprocess
import sys

import numpy as np
import pytest

from unigrpo.seeds import derive_seed


def test_a_seed_is_the_same_in_every_process() -> None:
    code = "from unigrpo.seeds import derive_seed; print(derive_seed(7, 'thought', 3, 11, 0))"
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert derive_seed(7, "thought", 3, 11, 0) == int(other)


def test_value_is_pinned_so_that_old_runs_can_be_resumed() -> None:
    # printf '[1, 2]' | b2sum -l 64
    assert derive_seed(1, 2) == 0x74F912167AB67550 >> 1


def test_order_number_and_type_of_parts_count() -> None:
    parts: list[tuple[int | str, ...]] = [
        (1, 2),
        (2, 1),
        (12,),
        (1, "2"),
        ("1", 2),
        ("1", "2"),
        ("12",),
        ("1, 2",),
        (1, 2, 0),
        (),
    ]
    assert len({derive_seed(*part) for part in parts}) == len(parts)


def test_seeds_fit_63_bits_and_fill_them() -> None:
    seeds = [derive_seed("spread", index) for index in range(4096)]
    assert len(set(seeds)) == 4096
    assert 0 <= min(seeds) < 1 << 53
    assert (1 << 63) - (1 << 53) < max(seeds) < 1 << 63
    ones = sum(seed.bit_count() for seed in seeds) / 4096
    assert ones == pytest.approx(31.5, abs=0.3)


@pytest.mark.parametrize("part", [np.int64(3), 3.0, True, None])
def test_parts_that_only_look_like_integers_are_refused(part: object) -> None:
    with pytest.raises(TypeError, match="a seed is made of int and str"):
        derive_seed(1, part)  # type: ignore[arg-type]
