"""Templates: a JSON file with the keys `system` and `question`, and placeholders such as {prompt}.

What a placeholder stands for is either data, written by a stranger, or a setting, written by the config. Data goes into the
question alone and is fenced: one line between two marks. Placeholders are replaced in one pass, so that one inside the
data stays what it is; any other brace is a brace.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping
from hashlib import blake2b
from pathlib import Path

from pydantic import ValidationError

from configs.base import Section
from reward_server.strict_json import parse_json

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>[]{}|"}
"""Servers cut special tokens (<|im_end|>, <image>, [INST]) out of the whole text; without these characters there are none."""


class Template(Section):
    """What a judge is told and asked. Example: Template(system="You judge pictures.", question="Does it fit {prompt}?")."""

    system: str
    """The instructions."""
    question: str
    """What stands beside the picture."""

    def render(self, *, data: Mapping[str, str], settings: Mapping[str, str]) -> tuple[str, str]:
        """System text and question, {name} replaced by the fenced `data[name]` or the plain `settings[name]`."""
        values = {**{name: fence(text) for name, text in data.items()}, **settings}
        system, question = (_PLACEHOLDER.sub(lambda found: values[found[1]], text) for text in (self.system, self.question))
        return system, question


def load_template(path: Path, *, data: Collection[str], settings: Collection[str] = ()) -> Template:
    """The template in a file.

    Raises ValueError, naming the file, unless it is a JSON object of a system text and a question that are not empty, hold the
    placeholder of each of `data` and `settings` once and no other, and those of `data` in the question.
    """
    try:
        template = Template.model_validate(parse_json(path.read_bytes()))
        _require_placeholders(template, data, settings)
    except OSError as error:
        raise ValueError(f"the template {path} cannot be read: {error.strerror}; give a JSON file") from None
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'the JSON'}: {fault['msg']}" for fault in error.errors())
        raise ValueError(f"the template {path}: {faults}; give a JSON object with the keys system and question") from None
    except ValueError as error:
        raise ValueError(f"the template {path}: {error}") from None
    return template


def fence(text: str) -> str:
    """`text` as one line of JSON between two marks.

    Letters and digits of every language stay readable. Quotes, line breaks, control and special-token characters, and signs
    beyond ASCII are escaped, so that no text ends its line; a mark is a hash of the line, so that no line holds its own, and
    the same text always gives the same bytes.
    """
    line = "".join(map(_escaped, json.dumps(text, ensure_ascii=False))).translate(_ESCAPES)
    mark = blake2b(line.encode(), digest_size=16).hexdigest()
    return f"<data {mark}>\n{line}\n</data {mark}>"


def _escaped(character: str) -> str:
    plain = character.isascii() or unicodedata.category(character)[0] in "LMN"
    return character if plain else json.dumps(character)[1:-1]


def _require_placeholders(template: Template, data: Collection[str], settings: Collection[str]) -> None:
    for name, text in (("system", template.system), ("question", template.question)):
        if not text.strip():
            raise ValueError(f"{name} is empty; write what the judge is told")
    if misplaced := sorted({*_PLACEHOLDER.findall(template.system)} & {*data}):
        raise ValueError(f"system holds {{{misplaced[0]}}}, which a stranger wrote; put it into the question")
    found = Counter(_PLACEHOLDER.findall(template.system + template.question))
    allowed = [*data, *settings]
    if unknown := sorted(found.keys() - {*allowed}):
        raise ValueError(f"{{{unknown[0]}}} stands for nothing; there are {', '.join(f'{{{name}}}' for name in allowed)}")
    for name in allowed:
        if found[name] != 1:
            raise ValueError(f"{{{name}}} stands there {found[name]} times; put it once")
