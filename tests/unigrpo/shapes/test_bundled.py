"""The bundled checkpoints are what their README files say, and one task's: same tokenizer, same autoencoder."""

import hashlib
import json
import math
import re
from pathlib import Path

import pytest

from configs.base import BUNDLED
from configs.load import load, model_folder
from configs.schema import SftConfig
from configs.sft import CheckpointStart

NAMES = ("shapes_base", "shapes")


def folder(name: str) -> Path:
    return model_folder(Path(f"{BUNDLED}{name}"))


def num_parameters(path: Path) -> int:
    """Counted from the header of a safetensors file: its length in 8 bytes, then JSON."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


@pytest.mark.parametrize("name", NAMES)
def test_files_are_those_that_the_readme_lists(name: str) -> None:
    told = re.findall(r"^\| `(\S+)` \| (\d+) \| `([0-9a-f]{64})` \|$", (folder(name) / "README.md").read_text(), re.MULTILINE)
    files = sorted(path for path in folder(name).iterdir() if path.name != "README.md")
    found = [(path.name, str(path.stat().st_size), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]
    assert told == found


def test_a_base_and_what_was_fine_tuned_from_it_differ_in_the_transformer_s_weights_alone() -> None:
    base, tuned = (folder(name) for name in NAMES)
    names = [path.name for path in sorted(base.iterdir())]
    assert names == [path.name for path in sorted(tuned.iterdir())]
    differ = {name for name in names if (base / name).read_bytes() != (tuned / name).read_bytes()}
    assert differ == {"README.md", "ema.safetensors"}
    assert num_parameters(base / "ema.safetensors") == num_parameters(tuned / "ema.safetensors") == 1_643_280
    assert num_parameters(base / "ae.safetensors") == 181_323


def test_fine_tuning_starts_from_the_bundled_base() -> None:
    base, tuned = (load(Path(f"configs/{name}.yaml")) for name in ("shapes_base", "shapes_sft"))
    assert isinstance(base, SftConfig)
    assert isinstance(tuned, SftConfig)
    assert base.start.kind == "new"
    assert tuned.start == CheckpointStart(path=Path(f"{BUNDLED}shapes_base"))
    assert base.dropout.text == tuned.dropout.text > 0
