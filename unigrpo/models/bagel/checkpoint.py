"""A BAGEL checkpoint folder in the released layout, read strictly and replaced as a whole.

    ema.safetensors      the model, position table included      ae.safetensors    the autoencoder
    llm_config.json      the text expert's sizes                 config.json       latents, special tokens, autoencoder sizes
    tokenizer.json       copied, never read here

The weights decide nothing but the size of the position table: every other size comes from the JSON files and must agree.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.models.bagel.config import LATENT_TABLE, WEIGHTS_FILE, BagelConfig
from unigrpo.models.bagel.model import Bagel, position_table
from unigrpo.models.bagel.transformer import widened

AUTOENCODER_FILE = "ae.safetensors"
TOKENIZER_FILE = "tokenizer.json"
VISION_PREFIXES = ("vit_model.", "connector.", "vit_pos_embed.")
"""Released tensors that let the model see pictures, which this version does not build: skipped, and said so."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint in memory."""

    model: Bagel
    """In the dtype asked for."""
    autoencoder: AutoEncoder
    """In float32 (float64 beside a float64 model)."""
    config: BagelConfig
    tokenizer_path: Path | None
    """tokenizer.json of the folder, if it has one."""
    skipped: tuple[str, ...]
    """Vision tensors of the file that this version has no use for."""


def load_model(folder: Path, *, dtype: torch.dtype = torch.float32) -> Loaded:
    """Read a checkpoint folder onto the CPU.

    Raises ValueError for a missing folder or file, a truncated file, and a tensor that is missing, extra, misshapen or not of
    floating point, naming it, what was found, what the config allows and what to do.
    """
    config = BagelConfig.from_folder(folder)
    with torch.device("meta"):
        model, autoencoder = Bagel(config), AutoEncoder(config.vae)
    model.to(dtype).to_empty(device="cpu")
    autoencoder.to(widened(dtype)).to_empty(device="cpu")
    model.latent_pos_embed.pos_embed.copy_(position_table(config.max_latent_size, config.hidden_size))
    skipped = load_weights(model, folder / WEIGHTS_FILE, skip=VISION_PREFIXES, optional=(LATENT_TABLE,))
    if skipped:
        logger.warning(
            "%s: %d vision tensors skipped; this version thinks and paints, but sees no pictures", folder, len(skipped)
        )
    load_weights(autoencoder, folder / AUTOENCODER_FILE)
    tokenizer_path = folder / TOKENIZER_FILE
    return Loaded(model, autoencoder, config, tokenizer_path if tokenizer_path.is_file() else None, skipped)


def load_weights(
    module: nn.Module, path: Path, *, skip: tuple[str, ...] = (), optional: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Fill every parameter and buffer of a module from a safetensors file, each cast to the module's own dtype.

    `skip` are prefixes of tensors to pass over, which are returned; `optional` are names that may be absent and then keep
    their value. Raises ValueError as load_model.
    """
    own = module.state_dict()
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            skipped = tuple(sorted(name for name in shapes if skip and name.startswith(skip)))
            found = {name: shape for name, shape in shapes.items() if name not in skipped}
            check_shapes(found, {name: tuple(tensor.shape) for name, tensor in own.items()}, str(path), optional)
            for name in found:
                tensor = file.get_tensor(name)
                if not tensor.is_floating_point():
                    raise ValueError(f"{name} in {path} is {tensor.dtype}; weights are floating point, export them unquantised")
                own[name].copy_(tensor)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; a BAGEL checkpoint folder holds {WEIGHTS_FILE} and {AUTOENCODER_FILE}") from None
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read ({error}): it is truncated or damaged; copy it again") from error
    return skipped


def check_shapes(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], place: str, optional: tuple[str, ...] = ()
) -> None:
    """Raises ValueError unless `found` has the names and shapes of `wanted`; `optional` names may be absent."""
    way_out = "the config beside it describes another model: use the config and weights of one checkpoint"
    if missing := sorted(wanted.keys() - found.keys() - set(optional)):
        raise ValueError(f"{place} lacks {_some(missing)}, which the config asks for; it is incomplete, or {way_out}")
    if extra := sorted(found.keys() - wanted.keys()):
        raise ValueError(f"{place} holds {_some(extra)}, which the config has no place for; {way_out}")
    for name in sorted(found):
        if found[name] != wanted[name]:
            raise ValueError(f"{name} in {place} is {list(found[name])}, the config asks for {list(wanted[name])}; {way_out}")


def save_model(
    folder: Path, weights: Mapping[str, Tensor], autoencoder: AutoEncoder, config: BagelConfig, *, tokenizer_path: Path | None
) -> None:
    """Write a checkpoint folder: `weights` are model.state_dict(), or the same names gathered from elsewhere, any device.

    The folder is written beside and renamed into place, so a full disk or a kill leaves the previous one as it was. Raises
    ValueError for weights that are not the config's, OSError naming the folder when it cannot be written.
    """
    with torch.device("meta"):
        wanted = Bagel(config).state_dict()
    check_shapes(_shapes(weights), _shapes(wanted), "the weights to save", optional=(LATENT_TABLE,))
    with replacing(folder) as beside:
        _save_tensors(beside / WEIGHTS_FILE, weights)
        _save_tensors(beside / AUTOENCODER_FILE, autoencoder.state_dict())
        config.save(beside)
        if tokenizer_path is not None:
            shutil.copyfile(tokenizer_path, beside / TOKENIZER_FILE)


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
        for path in (*beside.iterdir(), beside):
            _flush(path)
        if folder.exists():
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(folder, previous)
        os.replace(beside, folder)
        _flush(folder.parent)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{folder} could not be saved ({error}); what was there before is untouched. Free some space or give another path"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(previous, ignore_errors=True)


def policy_hash(model: nn.Module) -> str:
    """SHA-256 over name, dtype, shape and bytes of every parameter and buffer in the order of their names, in hex."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _some(names: list[str]) -> str:
    """The first three of many names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tensors" if len(names) > 3 else "")


def _flush(path: Path) -> None:
    """Make a file or directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
