"""How a config starts from another file."""

from pathlib import Path

import pytest

from configs.files import laid_over, read
from configs.load import ConfigError, load
from configs.schema import TrainConfig


def write(folder: Path, **files: str) -> Path:
    """YAML files by name; the first one."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(files))}.yaml"


def test_a_file_holds_what_differs_from_the_chain_of_its_bases(tmp_path: Path) -> None:
    first = write(
        tmp_path,
        a="base: b.yaml\nx: {one: 1}\nlist: [3]\n",
        b="base: c.yaml\nx: {two: 2}\n",
        c="x: {one: 0, two: 0, three: {deep: 3}}\nlist: [1, 2]\ny: 5\n",
    )
    assert read(first) == {"x": {"one": 1, "two": 2, "three": {"deep": 3}}, "list": [3], "y": 5}


def test_a_base_is_found_from_the_folder_of_the_file_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below" / "deeper").mkdir(parents=True)
    write(tmp_path, c="x: 1\n")
    write(tmp_path / "below", b="base: ../c.yaml\n")
    file = write(tmp_path / "below" / "deeper", a="base: ../b.yaml\n")
    monkeypatch.chdir(tmp_path / "below")
    assert read(file) == read(Path("deeper/a.yaml")) == {"x": 1}


@pytest.mark.parametrize(
    ("own", "merged"),
    [
        ({"s": {"kind": "a", "y": 2}}, {"s": {"kind": "a", "x": 1, "y": 2}}),
        ({"s": {"y": 2}}, {"s": {"kind": "a", "x": 1, "y": 2}}),
        ({"s": {"kind": "b", "y": 2}}, {"s": {"kind": "b", "y": 2}}),
        ({"s": {"kind": "b"}}, {"s": {"kind": "b"}}),
        ({"s": None}, {"s": None}),
        ({"s": [1]}, {"s": [1]}),
        ({"t": {"x": 1}}, {"s": {"kind": "a", "x": 1}, "t": {"x": 1}}),
        ({}, {"s": {"kind": "a", "x": 1}}),
    ],
)
def test_sections_are_merged_and_one_of_another_kind_is_replaced(own: dict[str, object], merged: dict[str, object]) -> None:
    base: dict[str, object] = {"s": {"kind": "a", "x": 1}}
    assert laid_over(base, own) == merged
    assert base == {"s": {"kind": "a", "x": 1}}


def test_a_kind_replaces_a_section_whose_kind_nobody_named_and_what_was_null() -> None:
    assert laid_over({"s": {"x": 1}}, {"s": {"kind": "a"}}) == {"s": {"kind": "a"}}
    assert laid_over({"s": None}, {"s": {"x": 1}}) == {"s": {"x": 1}}


def test_another_objective_keeps_nothing_of_the_bases_and_overrides_come_on_top(tmp_path: Path) -> None:
    base = Path("configs/shapes/unigrpo.yaml").absolute()
    file = write(tmp_path, a=f"base: {base}\nalgorithm: {{kind: flow_grpo}}\nlearner: {{text_learning_rate: 1.0e-6}}\n")
    config = load(file, ["algorithm.ppo_epochs=3"])
    assert isinstance(config, TrainConfig)
    assert config.algorithm.kind == "flow_grpo"
    assert (config.algorithm.ppo_epochs, config.algorithm.mini_batches) == (3, 1)
    assert config.rollout.group_size == 8


def test_a_chain_that_comes_back_is_told_with_its_files(tmp_path: Path) -> None:
    first = write(tmp_path, a="base: b.yaml\n", b="base: c.yaml\n", c=f"base: ../{tmp_path.name}/b.yaml\n")
    with pytest.raises(ConfigError) as raised:
        read(first)
    again = f"{tmp_path}/../{tmp_path.name}/b.yaml"
    assert str(raised.value) == (
        f"config {first} never ends: {first} -> {tmp_path}/b.yaml -> {tmp_path}/c.yaml -> {again}; let one of them name no base"
    )
    with pytest.raises(ConfigError, match=r"self\.yaml never ends"):
        read(write(tmp_path, self="base: self.yaml\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "base: gone.yaml\n",
            r"a\.yaml names base .*/gone\.yaml, which does not exist; give a path from",
        ),
        ("base: .\n", r"a\.yaml names base .*, which does not exist"),
        ("base: [b.yaml, c.yaml]\n", r"a\.yaml: base is \['b\.yaml', 'c\.yaml'\]; give the path of one YAML file"),
        ("base: 3\n", r"a\.yaml: base is 3; give the path of one YAML file, from the folder of this one"),
        ("base: list.yaml\n", r"list\.yaml holds list; it must be a mapping of keys to values"),
        ("base: broken.yaml\n", r"broken\.yaml is not YAML"),
    ],
)
def test_a_base_that_cannot_be_read_is_named(text: str, message: str, tmp_path: Path) -> None:
    first = write(tmp_path, a=text, list="[1]\n", broken="a: [1")
    with pytest.raises(ConfigError, match=message):
        read(first)


def test_a_base_is_given_in_a_file_and_not_as_an_override() -> None:
    with pytest.raises(ConfigError, match="base: unknown key"):
        load(Path("configs/quickstart.yaml"), ["base=other.yaml"])
