"""The checkpoint a run starts from: checked whole, then read a part of a tensor at a time; no rank ever holds it all."""

import math
from pathlib import Path

import torch
from torch import Tensor

from unigrpo.models.bagel.checkpoint import POSITION_TABLES, check_folder, weights_hash
from unigrpo.models.bagel.config import WEIGHTS_FILE
from unigrpo.models.bagel.model import Bagel, position_table
from unigrpo.models.bagel.weights_file import WeightsFile


class Start:
    """The weights of a checkpoint folder by name; a position table that the file lacks is worked out."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError, before a tensor is read, for a folder that is not whole or whose files do not agree."""
        self.folder = folder
        self.config = check_folder(folder)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self.model(torch.float32).state_dict().items()}
        """Of every parameter and position table, in the order of the model."""
        self._file = WeightsFile(folder / WEIGHTS_FILE)

    def model(self, dtype: torch.dtype) -> Bagel:
        """A model of this size without memory, on the meta device."""
        with torch.device("meta"):
            return Bagel(self.config).to(dtype)

    def tensor(self, name: str) -> Tensor:
        """One whole tensor, in the precision of the file."""
        if name in POSITION_TABLES and name not in self._file.shapes:
            num_places, hidden_size = self.shapes[name]
            return position_table(math.isqrt(num_places), hidden_size)
        return self._file.tensor(name)

    def flat(self, name: str, start: int, stop: int) -> Tensor:
        """Elements start .. stop of a flattened tensor, in the precision of the file."""
        if name in self._file.shapes:
            return self._file.flat(name, start, stop)
        return self.tensor(name).view(-1)[start:stop]

    def hash(self, dtype: torch.dtype) -> str:
        """The weights_hash of a model of this dtype with these weights."""
        return weights_hash(self.shapes, lambda name: self.tensor(name).to(dtype))
