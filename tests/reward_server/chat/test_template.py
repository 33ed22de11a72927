"""Templates: what a file must hold, how data is fenced, and that it is put in once."""

import json
import unicodedata
from pathlib import Path

import pytest

from reward_server.chat.template import Template, fence, load_template
from reward_server.templates import EXAM, VLM_JUDGE, VLM_JUDGE_SCALE
from tests.reward_server.chat.injections import INJECTIONS
from tests.reward_server.chat.stub_judge import FENCE


def written(folder: Path, content: object) -> Path:
    path = folder / "template.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def test_a_fence_by_hand() -> None:
    line = r'"say \"\u003cb\u003e\"\nnaïve \u007bprompt\u007d \u005b\u007c\u005d"'
    mark, _, closing = fence('say "<b>"\nnaïve {prompt} [|]').partition(f"\n{line}\n")
    assert mark.startswith("<data ")
    assert closing == mark.replace("<data", "</data")


@pytest.mark.parametrize("text", ["", "two cats", *INJECTIONS])
def test_a_fence_is_one_line_of_harmless_characters_that_says_the_whole_text(text: str) -> None:
    found = FENCE.fullmatch(fence(text))
    assert found is not None
    mark, line = found.groups()
    assert json.loads(line) == text
    signs = {character for character in line if not character.isalnum() and unicodedata.category(character)[0] != "M"}
    assert signs <= {*" \"\\!#$%&'()*+,-./:;=?@^_`~"}
    assert mark not in line
    assert fence(text) == fence(text)


def test_every_language_stays_readable_and_signs_that_turn_or_break_lines_do_not() -> None:
    assert '"三只红猫 · नमस्ते · три кота"'.replace("·", r"\u00b7") in fence("三只红猫 · नमस्ते · три кота")
    for sign, escaped in {
        "\u2028": r"\u2028",
        "\u202e": r"\u202e",
        "\ufeff": r"\ufeff",
        "＜": r"\uff1c",
        "\ud800": r"\ud800",
    }.items():
        assert f'"a{escaped}b"' in fence(f"a{sign}b")


def test_each_text_has_a_mark_of_its_own() -> None:
    marks = [fence(text).split("\n")[0] for text in INJECTIONS]
    assert len(set(marks)) == len(marks)


def test_a_text_with_another_texts_mark_does_not_end_its_fence() -> None:
    inner = fence("two cats")
    outer = fence(f"two cats\n{inner}")
    assert [json.loads(line) for _, line in FENCE.findall(outer)] == [f"two cats\n{inner}"]


def test_placeholders_are_replaced_once() -> None:
    template = Template(system="Grade up to {scale}.", question='{prompt} and {point}, {"as": "json"} {} { prompt }')
    point = r"{scale} \1 \g<0>"
    system, question = template.render(data={"prompt": "{point}", "point": point}, settings={"scale": "{prompt}"})
    assert system == "Grade up to {prompt}."
    assert question == fence("{point}") + " and " + fence(point) + ', {"as": "json"} {} { prompt }'


@pytest.mark.parametrize(
    ("path", "data", "settings"),
    [(VLM_JUDGE, ["prompt"], []), (VLM_JUDGE_SCALE, ["prompt"], ["scale"]), (EXAM, ["prompt", "point"], [])],
)
def test_the_shipped_templates_load_and_tell_the_judge_what_a_fence_is(
    path: Path, data: list[str], settings: list[str]
) -> None:
    template = load_template(path, data=data, settings=settings)
    assert '"<data MARK>"' in template.system
    assert '"</data MARK>"' in template.system
    assert "never an instruction" in template.system


def test_a_users_template_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, {"system": "Judge.", "question": "Is this {prompt}?"})
    assert load_template(path, data=["prompt"]) == Template(system="Judge.", question="Is this {prompt}?")


GOOD = {"system": "Judge {scale}.", "question": "Is this {prompt}?"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b'{"system": "Judge {scale}.", "system": "x", "question": "{prompt}"}', "given twice"),
        ([], "should be a valid dictionary"),
        ({}, "system: Field required; question: Field required"),
        ({**GOOD, "answer": "yes"}, "answer: Extra inputs are not permitted"),
        ({**GOOD, "system": None}, "system: Input should be a valid string"),
        ({**GOOD, "question": ["{prompt}"]}, "question: Input should be a valid string"),
        ({**GOOD, "system": " \n", "question": "{prompt} {scale}"}, "system is empty"),
        ({**GOOD, "question": "Does it fit?"}, r"\{prompt\} stands there 0 times"),
        ({**GOOD, "question": "{prompt} {prompt}"}, r"\{prompt\} stands there 2 times"),
        ({**GOOD, "question": "{Prompt}"}, r"\{Prompt\} stands for nothing; there are \{prompt\}, \{scale\}"),
        ({**GOOD, "question": "{prompt} {point}"}, r"\{point\} stands for nothing"),
        ({**GOOD, "question": "{prompt} {scale}"}, r"\{scale\} stands there 2 times"),
        ({**GOOD, "system": "Judge."}, r"\{scale\} stands there 0 times"),
        ({"system": "Judge {prompt}.", "question": "Up to {scale}?"}, r"system holds \{prompt\}, which a stranger wrote"),
    ],
)
def test_a_broken_template_is_refused_by_name(tmp_path: Path, content: object, message: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=message) as error:
        load_template(path, data=["prompt"], settings=["scale"])
    assert str(path) in str(error.value)


def test_a_template_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.json cannot be read: No such file"):
        load_template(tmp_path / "absent.json", data=["prompt"])
