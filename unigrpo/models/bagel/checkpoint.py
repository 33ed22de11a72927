"""A BAGEL checkpoint folder in the released layout, read strictly and replaced as a whole.

    ema.safetensors      the model, position tables included     ae.safetensors    the autoencoder
    llm_config.json      the language model's sizes              vit_config.json   the vision tower's, if the model has one
    config.json          latents, special tokens, autoencoder    tokenizer files   copied, never read here

The weights decide nothing but the size of the latent position table: every other size comes from the JSON files and must agree.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.models.bagel.config import LATENT_TABLE, VIT_FILE, WEIGHTS_FILE, BagelConfig
from unigrpo.models.bagel.model import VISION_PREFIXES, Bagel, PositionTable, position_table
from unigrpo.models.bagel.transformer import widened
from unigrpo.models.bagel.weights_file import WeightsFile, write_weights
from unigrpo.tokenizer import TOKENIZER_FILES, tokenizer_file

AUTOENCODER_FILE = "ae.safetensors"
VISION_TABLE = "vit_pos_embed.pos_embed"
POSITION_TABLES = (LATENT_TABLE, VISION_TABLE)
"""Follow from a formula: a file may lack them, and is always written with them."""
TRAVELLING_FILES = (*TOKENIZER_FILES, "generation_config.json")
"""Files that a policy takes along from the folder it started from, where they are there."""
TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
"""What renaming a folder onto something says that is neither absent nor an empty folder."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint in memory."""

    model: Bagel
    """In the dtype asked for."""
    autoencoder: AutoEncoder
    """In float32 (float64 beside a float64 model)."""
    config: BagelConfig
    tokenizer_path: Path | None
    """tokenizer.json or vocab.json of the folder, if it has one; the other files of the tokenizer are beside it."""


def load_model(folder: Path, *, dtype: torch.dtype = torch.float32) -> Loaded:
    """Read a checkpoint folder onto the CPU, one tensor after the other.

    Raises ValueError for a missing folder or file, a truncated file, and a tensor that is missing, extra, misshapen or not of
    floating point, naming it, what was found, what the config allows and what to do; all before a tensor is read.
    """
    config, model, autoencoder = _checked(folder)
    model.to(dtype).to_empty(device="cpu")
    autoencoder.to(widened(dtype)).to_empty(device="cpu")
    for table in model.modules():
        if isinstance(table, PositionTable):
            table.pos_embed.copy_(position_table(table.side, config.hidden_size))
    load_weights(model, folder / WEIGHTS_FILE)
    load_weights(autoencoder, folder / AUTOENCODER_FILE)
    return Loaded(model, autoencoder, config, tokenizer_file(folder))


def check_folder(folder: Path) -> BagelConfig:
    """The config of a checkpoint folder, once both files hold what it asks for; no tensor is read. Raises as load_model."""
    return _checked(folder)[0]


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill every parameter and buffer of a module from a safetensors file, each cast to the module's own dtype.

    A position table that the file lacks keeps its value. Raises ValueError as load_model.
    """
    own = module.state_dict()
    with WeightsFile(path) as file:
        check_shapes(file.shapes, _shapes(module), str(path))
        for name in file.shapes:
            own[name].copy_(file.tensor(name))


def check_shapes(found: Shapes, wanted: Shapes, place: str) -> None:
    """Raises ValueError unless `found`, at `place`, has the names and shapes of `wanted`; position tables may be absent."""
    way_out = "the config beside it describes another model: use the config and weights of one checkpoint"
    sees, should_see = (any(name.startswith(VISION_PREFIXES) for name in names) for names in (found, wanted))
    if sees and not should_see:
        raise ValueError(
            f"{place} holds a vision tower ({', '.join(VISION_PREFIXES)}), but {VIT_FILE} beside it is missing; copy it there"
        )
    if should_see and not sees:
        raise ValueError(
            f"{VIT_FILE} asks for a vision tower ({', '.join(VISION_PREFIXES)}), but {place} holds none; copy the whole "
            f"weights there, or remove {VIT_FILE} for a model without eyes"
        )
    if missing := sorted(wanted.keys() - found.keys() - set(POSITION_TABLES)):
        raise ValueError(f"{place} lacks {_some(missing)}, which the config asks for; it is incomplete, or {way_out}")
    if extra := sorted(found.keys() - wanted.keys()):
        raise ValueError(f"{place} holds {_some(extra)}, which the config has no place for; {way_out}")
    for name in sorted(found):
        if found[name] != wanted[name]:
            raise ValueError(f"{name} in {place} is {list(found[name])}, the config asks for {list(wanted[name])}; {way_out}")


def save_model(
    folder: Path, weights: Mapping[str, Tensor], autoencoder: AutoEncoder, config: BagelConfig, *, tokenizer_path: Path | None
) -> None:
    """Write a checkpoint folder in float32, the tokenizer's files at `tokenizer_path` and beside it included.

    `weights` are model.state_dict(), or a mapping with the same names that gathers each tensor as it is asked for; they are
    asked for one by one in the order of the model. The folder is written beside and renamed into place, so a full disk or a
    kill leaves the previous one as it was. Raises ValueError for weights that are not the config's, OSError naming the folder
    when it cannot be written.
    """
    with replacing(folder) as beside:
        write_policy(beside / WEIGHTS_FILE, config, weights.keys(), weights.__getitem__, torch.float32)
        tensors = autoencoder.state_dict()
        write_weights(
            beside / AUTOENCODER_FILE,
            [(name, tuple(value.shape), value.dtype) for name, value in tensors.items()],
            tensors.__getitem__,
        )
        config.save(beside)
        if tokenizer_path is not None:
            copy_files(tokenizer_path.parent, beside, TRAVELLING_FILES)


def write_policy(
    path: Path, config: BagelConfig, names: Iterable[str], tensor: Callable[[str], Tensor], dtype: torch.dtype
) -> None:
    """Write a model's weights, in the model's order, each cast to `dtype`; position tables are worked out where absent.

    names: of the tensors there are. tensor: one of them, asked for in turn, on any device and in any dtype.
    Raises ValueError for weights that are not the config's.
    """
    model, _ = _without_memory(config)
    wanted, there = _shapes(model), set(names)
    check_shapes({name: wanted.get(name, ()) for name in there}, wanted, "the weights to save")
    sides = {LATENT_TABLE: config.max_latent_size}
    if config.vision is not None:
        sides[VISION_TABLE] = config.vision.max_patches_per_side
    write_weights(
        path,
        [(name, shape, dtype) for name, shape in wanted.items()],
        lambda name: tensor(name) if name in there else position_table(sides[name], config.hidden_size),
    )


def copy_files(source: Path, target: Path, names: Iterable[str]) -> None:
    """Copy those of the files that there are."""
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that takes its place when the block ends, and vanishes when the block fails.

    Raises OSError naming `folder` when the disk refuses.
    """
    beside, previous = (folder.with_name(f".{folder.name}.{state}") for state in ("partial", "previous"))
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        yield beside
        _flush_all(beside)
        if folder.exists():
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(folder, previous)
        os.replace(beside, folder)
        _flush(folder.parent)
    except OSError as error:
        raise _unsaved(folder, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(previous, ignore_errors=True)


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """A new folder that becomes `folder`, absent or empty until then, when the block ends, and vanishes when the block fails.

    It has a name of its own, so two may fill one folder at once: the first wins. Raises OSError naming `folder` when somebody
    else has filled it meanwhile, or the disk refuses.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".filling-", dir=folder.parent) as own:
            beside = Path(own) / folder.name
            beside.mkdir()
            yield beside
            _flush_all(beside)
            os.replace(beside, folder)
        _flush(folder.parent)
    except OSError as error:
        if error.filename2 is not None and error.errno in TAKEN:  # of the renaming alone
            raise OSError(f"{folder} has been filled by somebody else meanwhile and stays as it is; give another") from error
        raise _unsaved(folder, error) from error


def weights_hash(names: Iterable[str], tensor: Callable[[str], Tensor]) -> str:
    """SHA-256 over name, dtype, shape and bytes of tensors in the order of their names, in hex; each is asked for in turn."""
    digest = hashlib.sha256()
    for name in sorted(names):
        value = tensor(name)
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _checked(folder: Path) -> tuple[BagelConfig, Bagel, AutoEncoder]:
    """The config of a folder and its modules on the meta device, once both files hold what they ask for."""
    config = BagelConfig.from_folder(folder)
    model, autoencoder = _without_memory(config)
    for name, module in ((WEIGHTS_FILE, model), (AUTOENCODER_FILE, autoencoder)):
        with WeightsFile(folder / name) as file:
            check_shapes(file.shapes, _shapes(module), str(file.path))
    return config, model, autoencoder


def _without_memory(config: BagelConfig) -> tuple[Bagel, AutoEncoder]:
    """Model and autoencoder on the meta device: names and shapes alone."""
    with torch.device("meta"):
        return Bagel(config), AutoEncoder(config.vae)


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _some(names: list[str]) -> str:
    """The first three of many names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tensors" if len(names) > 3 else "")


def _unsaved(folder: Path, error: OSError) -> OSError:
    return OSError(
        f"{folder} could not be saved ({error}); what was there before is untouched. Free some space or give another path"
    )


def _flush_all(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        _flush(path)


def _flush(path: Path) -> None:
    """Make a file or directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
