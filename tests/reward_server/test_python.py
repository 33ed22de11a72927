"""A user's own verifier: found or refused with the way out, and only clean answers become scores."""

import importlib.metadata
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from configs.verifiers import PythonReward
from reward_server.server import RewardServer
from reward_server.verifiers import python, validate_metadata
from reward_server.verifiers.python import PythonVerifier
from unigrpo.types import Prompt, Score, ScoreFailure

IMAGE = torch.zeros(4, 4, 3, dtype=torch.uint8)
MODULE = '''
from unigrpo.types import Score, ScoreFailure

def function(prompts, images): ...

class Plain:
    def score(self, prompts, images):
        return [0.5] * len(images)

class Says:
    """Answers what it was told to."""
    bounds = (0, 2)
    def __init__(self, answers, *, strict=False):
        self.answers = answers
    def score(self, prompts, images):
        return self.answers

class Metadata(Plain):
    def __init__(self):
        raise RuntimeError("constructed")
    @staticmethod
    def validate_metadata(metadata):
        if metadata["mood"] != "warm":
            raise ValueError("mood is not warm")

class NeedsSelf(Plain):
    def validate_metadata(self, metadata): ...

class Blind: ...

class Versioned(Plain):
    version = "7"

class BadVersion(Plain):
    version = 7

class BadBounds(Plain):
    bounds = (1.0, 0.0)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module of verifiers; what importing it changes is undone."""
    (tmp_path / "own_judges.py").write_text(MODULE)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    python._found.cache_clear()
    yield tmp_path
    python._found.cache_clear()
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def own(folder: Path, name: str, **options: Any) -> PythonReward:
    return PythonReward(verifier=f"own_judges:{name}", folder=folder, options=options)


def asked(verifier: PythonVerifier, number: int = 1) -> list[Score | ScoreFailure]:
    return verifier.score([Prompt(index=0, text="a cat", metadata={})] * number, [IMAGE] * number)


def test_a_class_by_its_path_judges(folder: Path) -> None:
    verifier = PythonVerifier(own(folder, "Plain"))
    assert asked(verifier, 3) == [Score(value=0.5, breakdown={})] * 3
    assert verifier.bounds == (-math.inf, math.inf)
    assert sys.path[-1] == str(folder)
    PythonVerifier(own(folder, "Plain"))
    assert sys.path.count(str(folder)) == 1


def test_a_class_by_its_entry_point_judges(folder: Path) -> None:
    package = folder / "own_judges-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: own-judges\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[unigrpo.verifiers]\nplain = own_judges:Plain\nlost = own_judges:Lost\nnothing = own_judges:function\n"
    )
    assert asked(PythonVerifier(PythonReward(verifier="plain", folder=folder))) == [Score(value=0.5, breakdown={})]
    for name, message in [
        ("lost", "loading it failed: AttributeError"),
        ("nothing", "must be a class with a method score"),
        ("other", r"0 installed packages .* \(there: lost, nothing, plain\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            PythonVerifier(PythonReward(verifier=name, folder=folder))


def test_two_packages_with_one_name_are_ambiguous(folder: Path) -> None:
    for package in ("one", "two"):
        (folder / f"{package}-1.0.dist-info").mkdir()
        (folder / f"{package}-1.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (folder / f"{package}-1.0.dist-info" / "entry_points.txt").write_text("[unigrpo.verifiers]\nplain = own_judges:Plain\n")
    sys.path.append(str(folder))
    assert len(importlib.metadata.entry_points(group="unigrpo.verifiers", name="plain")) == 2
    with pytest.raises(ValueError, match="2 installed packages"):
        PythonVerifier(PythonReward(verifier="plain"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, r"reward\.verifier is null"),
        ("own_judges", "entry point"),
        ("own_judges.Plain", "entry point"),
        ("absent:Judge", "there is no module absent; .* holds no such module"),
        ("own_judges.absent:Judge", r"there is no module own_judges\.absent"),
        ("own_judges:Plane", r"own_judges\.py has no 'Plane'; its classes are \['Plain', 'Says'"),
        ("own_judges:", "has no ''"),
        (":Plain", "importing  failed"),
        ("own judges:Plain", "importing own judges failed"),
        ("own_judges:function", "must be a class with a method score"),
        ("own_judges:Blind", "must be a class with a method score"),
        ("json:JSONDecoder", r"comes from .*json/__init__\.py, not from reward\.folder"),
        ("needy:Judge", "importing needy needs surely_absent, which is not installed"),
        ("broken:Judge", "importing broken failed: SyntaxError"),
        ("raising:Judge", "importing raising failed: AttributeError"),
        ("own_judges:BadVersion", "version is 7"),
        ("own_judges:BadBounds", r"bounds is \(1\.0, 0\.0\)"),
        ("own_judges:Says", r"options \[\] do not fit own_judges:Says\(answers, \*, strict=False\): missing .*'answers'"),
    ],
)
def test_what_is_wrong_with_a_name_is_said(folder: Path, name: str | None, message: str) -> None:
    (folder / "needy.py").write_text("import surely_absent")
    (folder / "broken.py").write_text("class Judge(")
    (folder / "raising.py").write_text("import math\nmath.absent")
    with pytest.raises(ValueError, match=message):
        PythonVerifier(PythonReward(verifier=name, folder=folder))


def test_a_folder_that_was_forgotten_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"no module surely_absent; set reward\.folder"):
        PythonVerifier(PythonReward(verifier="surely_absent.judges:Judge"))


def test_options_that_the_class_does_not_take_are_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"\['answers', 'stricter'\] do not fit .*unexpected keyword argument 'stricter'"):
        PythonVerifier(own(folder, "Says", answers=[], stricter=True))


def test_what_its_own_constructor_raises_passes_through(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="constructed"):
        PythonVerifier(own(folder, "Metadata"))


def says(folder: Path, answers: object) -> PythonVerifier:
    verifier = PythonVerifier(own(folder, "Says", answers=[]))
    verifier._judge.answers = answers
    return verifier


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        (1, Score(value=1.0, breakdown={})),
        (np.float32(0.5), Score(value=0.5, breakdown={})),
        ({"value": 1, "sharp": 2, "why": "clear"}, Score(value=1.0, breakdown={"sharp": 2.0, "why": "clear"})),
        (Score(value=0.25, breakdown={"a": 1.0}), Score(value=0.25, breakdown={"a": 1.0})),
        (ScoreFailure(reason="too dark"), ScoreFailure(reason="too dark")),
    ],
)
def test_good_answers(folder: Path, answer: object, score: Score | ScoreFailure) -> None:
    [verdict] = asked(says(folder, [answer]))
    assert verdict == score
    assert not isinstance(verdict, Score) or type(verdict.value) is float


@pytest.mark.parametrize(
    "answer",
    [
        None,
        True,
        "0.5",
        math.nan,
        math.inf,
        np.float32("inf"),
        10**400,
        1j,
        [0.5],
        torch.tensor(0.5),
        {},
        {"score": 0.5},
        {"value": None},
        {"value": False},
        {"value": 0.5, "sharp": True},
        {"value": 0.5, "sharp": math.nan},
        {"value": 0.5, "sharp": None},
        {"value": 0.5, 7: 1.0},
    ],
)
def test_an_answer_that_is_no_score_fails_alone_and_is_quoted(
    folder: Path, answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad, last = asked(says(folder, [0.5, answer, 0.5]), 3)
    assert good == last == Score(value=0.5, breakdown={})
    assert isinstance(bad, ScoreFailure)
    assert f"own_judges:Says.score gave {answer!r}"[:200] in bad.reason
    assert caplog.messages == [bad.reason]


@pytest.mark.parametrize(
    ("answers", "given"),
    [
        ([], "0 answers"),
        ([0.5] * 3, "3 answers"),
        (None, "a NoneType"),
        (0.5, "a float"),
        ({0: 1, 1: 2}, "a dict"),
        ("ab", "a str"),
    ],
)
def test_a_wrong_number_of_answers_fails_every_item(folder: Path, answers: object, given: str) -> None:
    verdicts = asked(says(folder, answers), 2)
    reason = f"own_judges:Says.score gave {given} for 2 pictures; it must give a list of one answer a picture"
    assert verdicts == [ScoreFailure(reason=reason)] * 2


def test_the_server_holds_the_class_to_its_bounds(folder: Path) -> None:
    server = RewardServer(own(folder, "Says", answers=[2.5]))
    [verdict] = server.score([Prompt(index=0, text="a cat", metadata={})], [IMAGE])
    assert isinstance(verdict, ScoreFailure)
    assert "2.5, which is not between 0.0 and 2.0" in verdict.reason


def test_metadata_is_validated_without_making_an_object(folder: Path) -> None:
    validate_metadata(own(folder, "Metadata"), {"mood": "warm"})
    validate_metadata(own(folder, "Says"), {})
    for name, metadata, message in [
        ("Metadata", {"mood": "cold"}, "^mood is not warm$"),
        ("Metadata", {}, "Metadata.validate_metadata broke: KeyError: 'mood'"),
        ("NeedsSelf", {}, "put @staticmethod above it"),
    ]:
        with pytest.raises(ValueError, match=message):
            validate_metadata(own(folder, name), metadata)


def test_the_version_follows_source_options_and_the_classs_own(folder: Path) -> None:
    plain, versioned = (PythonVerifier(own(folder, name)).version for name in ("Plain", "Versioned"))
    told = [PythonVerifier(own(folder, "Says", answers=[number])).version for number in (1, 2)]
    assert len({plain, versioned, *told}) == 4
    assert PythonVerifier(own(folder, "Plain")).version == plain
    (folder / "own_judges.py").write_text(MODULE + "\n# changed\n")
    assert PythonVerifier(own(folder, "Plain")).version != plain
    assert PythonVerifier(own(folder, "Versioned")).version == versioned
