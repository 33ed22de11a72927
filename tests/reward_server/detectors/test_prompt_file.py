"""GenEval's prompt files load for a judge of photographs, without its models."""

import json
from functools import partial
from pathlib import Path

import pytest

from configs.verifiers import GenevalReward
from reward_server.verifiers import validate_metadata
from unigrpo.prompts import read_prompt_file

OFFICIAL = Path("/work/shared/golden/geneval/evaluation_metadata.jsonl")
CHECK = partial(
    validate_metadata,
    GenevalReward(detector="mask2former", detector_path=Path("/not/loaded"), clip_path=Path("/not/loaded")),
)
LINES = [
    {"tag": "single_object", "include": [{"class": "tv remote", "count": 1}], "prompt": "a photo of a tv remote"},
    {
        "tag": "counting",
        "include": [{"class": "computer mouse", "count": 3}],
        "exclude": [{"class": "computer mouse", "count": 4}],
        "prompt": "a photo of three computer mice",
    },
    {
        "tag": "color_attr",
        "include": [{"class": "couch", "count": 1, "color": "pink"}, {"class": "sink", "count": 1, "color": "brown"}],
        "prompt": "a photo of a pink couch and a brown sink",
    },
    {
        "tag": "position",
        "include": [{"class": "oven", "count": 1}, {"class": "kite", "count": 1, "position": ["left of", 0]}],
        "prompt": "a photo of a kite left of an oven",
    },
]


def test_lines_of_genevals_format_load(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    assert [one.metadata for one in read_prompt_file(path, check=CHECK)] == LINES


def test_what_it_cannot_name_is_found_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    unknown = {"tag": "single_object", "include": [{"class": "dragon", "count": 1}], "prompt": "a dragon"}
    path.write_text("".join(json.dumps(line) + "\n" for line in (LINES[0], unknown)))
    with pytest.raises(ValueError, match=r"prompts.jsonl:2: include\[0\].class is 'dragon'"):
        read_prompt_file(path, check=CHECK)


@pytest.mark.skipif(not OFFICIAL.is_file(), reason=f"GenEval's prompt file is not at {OFFICIAL}")
def test_the_official_prompts_load() -> None:
    assert len(read_prompt_file(OFFICIAL, check=CHECK)) == 553
