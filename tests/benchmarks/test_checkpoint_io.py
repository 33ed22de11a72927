from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.checkpoint_io import load_and_copy, save_and_flush


def test_copies_outlive_their_file_and_are_written_back(tmp_path: Path) -> None:
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
    file, again = tmp_path / "file", tmp_path / "again"
    save_file(weights, file)
    copies = load_and_copy(file)
    with file.open("r+b") as bytes_of_file:  # a map of the file would see this
        bytes_of_file.seek(-32, 2)
        bytes_of_file.write(b"\0" * 32)
    torch.testing.assert_close(copies, weights)
    save_and_flush(copies, again)
    torch.testing.assert_close(load_and_copy(again), weights)
