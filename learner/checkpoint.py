"""Checkpoints: a folder a step, whole or absent, independent of the number of ranks.

    step-000020/
      policy/                    the released BAGEL layout, in float32: masters, and what is frozen as the run started
      exp_avg.safetensors        first moments          exp_avg_sq.safetensors    second moments
      state.json                 step, updates, hash of the frozen reference, resolved config, objective's own state, format
      manifest.json              size and CRC-32 of every other file; written last, so its presence means complete

The folder is written beside and renamed into place: a full disk or a kill leaves the previous checkpoint as it was.
"""

import json
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.base import dotted
from configs.load import ConfigError, parse
from configs.schema import SftConfig, TrainConfig
from learner.start import Start
from learner.zero import KINDS, Kind
from unigrpo.models.bagel.checkpoint import AUTOENCODER_FILE, TRAVELLING_FILES, copy_files, replacing
from unigrpo.models.bagel.config import WEIGHTS_FILE
from unigrpo.models.bagel.weights_file import WeightsFile, write_weights

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.json"
POLICY = "policy"
FILES: Mapping[Kind, Path] = {
    "master": Path(POLICY) / WEIGHTS_FILE,
    "exp_avg": Path("exp_avg.safetensors"),
    "exp_avg_sq": Path("exp_avg_sq.safetensors"),
}
FREE_SECTIONS = ("steps", "run_dir", "logging", "evaluation", "panel", "cluster")
"""Config sections that a resumed run may change: they do not touch what is learned (run_dir is where, not what)."""
FREE_KEYS = (
    *("placement", "num_workers", "activation_checkpointing"),
    *("remote", "max_retries", "outage", "outage_timeout", "judge_timeout", "cache_entries"),
)
"""Keys of a role that say where and in how much memory its work runs, whom it asks and how long it waits, not what it is."""
_FREE = re.compile(
    rf"(?:{'|'.join(FREE_SECTIONS)})(?:\..*)?"
    rf"|(?:reasoner|denoiser|learner|reward|reward\.parts\.[^.]+)\.(?:{'|'.join(FREE_KEYS)})(?:\..*)?"
)
CHUNK = 1 << 24


@dataclass(frozen=True, kw_only=True)
class State:
    """What a checkpoint says of itself beside its tensors."""

    step: int
    """Turns of the loop behind it."""
    updates: int
    """Optimizer updates behind it; Adam's own step count."""
    reference_hash: str
    """Of the weights the run started from, which the frozen reference holds."""
    config: dict[str, Any]
    """The resolved config."""
    objective: dict[str, float] = field(default_factory=dict)
    """What the objective carries from step to step, such as an adaptive regulariser's weight."""
    format: int = FORMAT
    """Of the folder."""


class InTurn(Mapping[str, Tensor]):
    """Named tensors as a generator gives them: asked for in its order, and none held longer than until the next."""

    def __init__(self, names: Sequence[str], tensors: Iterator[tuple[str, Tensor]]) -> None:
        self._names, self._tensors = names, tensors

    def __getitem__(self, name: str) -> Tensor:
        following, tensor = next(self._tensors)
        assert following == name, f"{name} is asked for, but {following} comes next"
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def finish(self) -> None:
        """Run through what is left."""
        for _ in self._tensors:
            pass


def checkpoints_folder(config: TrainConfig | SftConfig) -> Path:
    """Where a run keeps its checkpoints."""
    return config.run_dir / "checkpoints"


def newest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint of the highest step in a checkpoints folder, if there is one."""
    complete = _complete(folder)
    return complete[-1] if complete else None


def check_resumable(config: TrainConfig | SftConfig) -> None:
    """Raises ConfigError unless the newest checkpoint of the run, if any, may be resumed with this config."""
    newest = newest_checkpoint(checkpoints_folder(config))
    if newest is None:
        return
    saved, given = dotted(_completed(read_state(newest).config)), dotted(config.model_dump(mode="json"))
    differing = [
        f"{key} was {saved.get(key)!r} and is {given.get(key)!r}"
        for key in sorted(saved.keys() | given.keys())
        if saved.get(key) != given.get(key) and not _FREE.fullmatch(key)
    ]
    if differing:
        raise ConfigError(
            f"{newest} was written by another config: {'; '.join(differing)}. A resumed run may change "
            f"{', '.join(FREE_SECTIONS)} and a role's {', '.join(FREE_KEYS)} only; set these back, or give another run_dir"
        )


def write_checkpoint(
    folder: Path, tensors: Mapping[Kind, Mapping[str, Tensor]], state: State, start: Start, *, keep: int
) -> Path:
    """Write the checkpoint of a step into a checkpoints folder, then remove all but the newest `keep`.

    tensors: masters and moments of what is trained, asked for one by one in the order of the model and of KINDS; `start` lends
    all that training does not change. Raises OSError naming the folder when the disk refuses; what was there still loads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".step-*"):
        shutil.rmtree(leftover)
    target = folder / f"step-{state.step:06d}"
    with replacing(target) as beside:
        checksums = {}
        with replacing(beside / POLICY) as policy:
            checksums[FILES["master"]] = _write_policy(policy, tensors["master"], start)
        for kind in KINDS[1:]:
            shapes = {name: start.shapes[name] for name in tensors[kind]}
            checksums[FILES[kind]] = _write_tensors(beside / FILES[kind], shapes, tensors[kind].__getitem__)
        (beside / STATE).write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")
        (beside / MANIFEST).write_text(json.dumps(_manifest(beside, checksums), indent=2) + "\n", encoding="utf-8")
    for old in _complete(folder)[:-keep]:
        (old / MANIFEST).unlink()
        shutil.rmtree(old)
    return target


def read_state(checkpoint: Path) -> State:
    """What a checkpoint says of itself. Raises ValueError when it is of another format or cannot be read."""
    path = checkpoint / STATE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] == FORMAT:
            return State(**values)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}); {_way_out(checkpoint)}") from error
    raise ValueError(
        f"{path} has format {values['format']}, this version reads {FORMAT}; resume with the version that wrote it"
    )


def verify(checkpoint: Path, below: str = "") -> None:
    """Raises ValueError at the first file, of those below a folder, that is missing, truncated or altered, naming it."""
    manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    for name, expected in manifest.items():
        if not Path(name).is_relative_to(below):
            continue
        path = checkpoint / name
        size = path.stat().st_size if path.is_file() else None
        if size != expected["bytes"]:
            raise ValueError(f"{path} has {size or 'no'} bytes instead of {expected['bytes']}; {_way_out(checkpoint)}")
        if _crc32(path) != expected["crc32"]:
            raise ValueError(f"{path} has another checksum than when it was written; {_way_out(checkpoint)}")


def saved_tensors(checkpoint: Path, kind: Kind, expected: Mapping[str, tuple[int, ...]]) -> WeightsFile:
    """The tensors of one kind in a checkpoint. Raises ValueError unless it holds the expected names in their shapes."""
    file = WeightsFile(checkpoint / FILES[kind])
    for name, shape in expected.items():
        if (found := file.shapes.get(name)) != shape:
            raise ValueError(f"{name} in {file.path} has shape {found} instead of {shape}; {_way_out(checkpoint)}")
    return file


def _write_policy(folder: Path, masters: Mapping[str, Tensor], start: Start) -> int:
    """The released layout: masters of what is trained, everything else as the run started; the weights' CRC-32."""
    trained = set(masters)
    checksum = _write_tensors(
        folder / WEIGHTS_FILE, start.shapes, lambda name: masters[name] if name in trained else start.tensor(name)
    )
    start.config.save(folder)
    copy_files(start.folder, folder, (AUTOENCODER_FILE, *TRAVELLING_FILES))
    return checksum


def _write_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]], tensor: Callable[[str], Tensor]) -> int:
    """A file of float32 tensors; its CRC-32."""
    return write_weights(path, [(name, shape, torch.float32) for name, shape in shapes.items()], tensor)


def _manifest(folder: Path, checksums: Mapping[Path, int]) -> dict[str, dict[str, int]]:
    """Size and CRC-32 of every file; the small ones, which `checksums` lacks, are read for it."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {
        str(file): {
            "bytes": (folder / file).stat().st_size,
            "crc32": checksums[file] if file in checksums else _crc32(folder / file),
        }
        for file in files
    }


def _complete(folder: Path) -> Sequence[Path]:
    return sorted(path.parent for path in folder.glob(f"step-*/{MANIFEST}"))


def _way_out(checkpoint: Path) -> str:
    return f"remove {checkpoint} to resume from the checkpoint before it"


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def _completed(saved: dict[str, Any]) -> dict[str, Any]:
    """A saved config with the defaults of keys that came after it; as it is where this version cannot read it."""
    try:
        return parse(dict(saved), source="the saved config").model_dump(mode="json")
    except ConfigError:
        return saved
