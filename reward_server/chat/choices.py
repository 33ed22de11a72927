"""An answer that is one of a few values, asked for as a JSON schema and read by it: prose never becomes a verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from reward_server.chat.completion import only_choice, shown
from reward_server.strict_json import parse_json

V = TypeVar("V", str, int)

_MAX_TOKENS = 64
"""Room for the object where every character is a token, and for some spaces; what runs on is cut off and fails."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices(Generic[V]):
    """An object of one key. Example: Choices(key="answer", allowed=("yes", "no")) reads '{"answer": "no"}' as "no"."""

    key: str
    """The only key."""
    allowed: tuple[V, ...]
    """Its values: texts, or whole numbers."""

    @property
    def request(self) -> Mapping[str, Any]:
        """Structured output in the part of JSON schema that OpenAI and vLLM share."""
        kind = "string" if isinstance(self.allowed[0], str) else "integer"
        schema = {
            "type": "object",
            "properties": {self.key: {"type": kind, "enum": list(self.allowed)}},
            "required": [self.key],
            "additionalProperties": False,
        }
        form = {"type": "json_schema", "json_schema": {"name": self.key, "strict": True, "schema": schema}}
        return {"max_tokens": _MAX_TOKENS, "response_format": form}

    def read(self, content: bytes) -> V:
        """The value in a completion. Raises ValueError, quoting the answer, for all that is not exactly of the schema."""
        text: str = only_choice(content, endings=("stop",))["message"]["content"]
        try:
            answer = parse_json(text.encode())
        except ValueError as error:
            raise ValueError(f"the judge answered {shown(text)}, not an object with {self.key}: {error}") from None
        if not isinstance(answer, dict) or answer.keys() != {self.key}:
            raise ValueError(f"the judge answered {shown(text)}, not an object with the key {self.key} alone")
        for value in self.allowed:
            if type(answer[self.key]) is type(value) and answer[self.key] == value:
                return value
        raise ValueError(f"the judge answered {shown(text)}; {self.key} must be one of {shown(list(self.allowed))}")


YES_NO = Choices(key="answer", allowed=("yes", "no"))


def grades(scale: int) -> Choices[int]:
    """A whole number from 1 to `scale`."""
    return Choices(key="grade", allowed=tuple(range(1, scale + 1)))
