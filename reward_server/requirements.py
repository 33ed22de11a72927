"""What a prompt asks for: GenEval's metadata, read into records and checked.

`Requirements.parse` accepts whatever GenEval's published scoring gives a meaning to. `validate_metadata` is stricter: it is for
prompt files, before a run starts, and also refuses what our own scores (clauses.py) could not judge fairly.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

RELATIONS = ("left of", "right of", "above", "below")
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr", "mixed", "compositional")
"""GenEval's six, and two that combine their clauses."""
MAX_GROUPS = 64
"""Groups of one prompt."""
MAX_WORD = 100
"""Characters of a class or colour."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """Where a group must stand. Example: Position(relation="left of", target=0): left of the first include group."""

    relation: str
    """One of RELATIONS."""
    target: int
    """Index of an earlier include group."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Objects asked for together. Example: Group(label="circle", count=3, color="red", position=None)."""

    label: str
    """Class of the objects."""
    count: int
    """How many; in an exclude group the first number that is too many."""
    color: str | None = None
    """Colour of every one of them; None leaves it open."""
    position: Position | None = None
    """Where every one of them stands; None leaves it open."""

    @classmethod
    def parse(cls, entry: Any, where: str, allowed: Collection[str]) -> Self:
        """Read one entry of include or exclude; `where` names it in the ValueError that a broken one raises."""
        if not isinstance(entry, Mapping):
            raise ValueError(f"{where} is {entry!r}; give an object with class and count")
        if missing := {"class", "count"} - entry.keys():
            raise ValueError(f"{where} lacks {sorted(missing)}: {dict(entry)!r}; give a class and a count")
        if unknown := entry.keys() - set(allowed):
            raise ValueError(f"{where} has unknown keys {sorted(unknown)}; the known ones are {sorted(allowed)}")
        _require_text(entry["class"], f"{where}.class")
        if type(entry["count"]) is not int or entry["count"] < 1:
            raise ValueError(f"{where}.count is {entry['count']!r}; give a whole number of at least 1")
        if "color" in entry:
            _require_text(entry["color"], f"{where}.color")
        position = _parse_position(entry["position"], f"{where}.position") if "position" in entry else None
        return cls(label=entry["class"], count=entry["count"], color=entry.get("color"), position=position)


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirements:
    """All that one prompt asks for."""

    tag: str
    """Category of the prompt; `counting` raises GenEval's score threshold."""
    include: tuple[Group, ...]
    """What must be there; positions refer to earlier groups of this tuple."""
    exclude: tuple[Group, ...] = ()
    """Numbers of objects that must not be reached."""

    @classmethod
    def parse(cls, metadata: Mapping[str, Any]) -> Self:
        """Read GenEval's format. Raises ValueError, naming the entry, for what the published scoring cannot judge."""
        if "tag" not in metadata:
            raise ValueError(f"metadata lacks 'tag'; it has {sorted(metadata)}")
        _require_text(metadata["tag"], "tag")
        include = _parse_groups(metadata, "include", ("class", "count", "color", "position"))
        exclude = _parse_groups(metadata, "exclude", ("class", "count"))
        if not include and not exclude:
            raise ValueError(
                f"metadata asks for nothing; give 'include' or 'exclude' at least one group (has {sorted(metadata)})"
            )
        for index, group in enumerate(include):
            if group.position is not None and not 0 <= group.position.target < index:
                raise ValueError(
                    f"include[{index}].position refers to group {group.position.target}; only the earlier groups "
                    f"0 .. {index - 1} can be its target; put the target first"
                )
        return cls(tag=metadata["tag"], include=include, exclude=exclude)


def validate_metadata(
    metadata: Mapping[str, Any], *, labels: Collection[str] | None = None, colors: Collection[str] | None = None
) -> Requirements:
    """Read one prompt's metadata for training or evaluation and refuse what could not be judged fairly.

    `labels` and `colors` are what the detector can name; None leaves them open. Raises ValueError, saying what was given and
    what is allowed, for: broken or missing entries, an unknown tag, no include group, a class or colour that the detector
    cannot name (it would score 0 for ever), groups of one class that colours do not tell apart, a count that is asked for
    and excluded at once.
    """
    wanted = Requirements.parse(metadata)
    if wanted.tag not in TAGS:
        raise ValueError(f"tag is {wanted.tag!r}; the known tags are {list(TAGS)}")
    if not wanted.include:
        raise ValueError("include is empty; ask for at least one group of objects")
    for index, group in enumerate(wanted.include + wanted.exclude):
        where = f"include[{index}]" if index < len(wanted.include) else f"exclude[{index - len(wanted.include)}]"
        if labels is not None and group.label not in labels:
            raise ValueError(f"{where}.class is {group.label!r}, which the detector cannot name; it knows {sorted(labels)}")
        if colors is not None and group.color is not None and group.color not in colors:
            raise ValueError(f"{where}.color is {group.color!r}, which the detector cannot name; it knows {sorted(colors)}")
    require_distinct_groups(wanted.include)
    asked = Counter[str]()
    for group in wanted.include:
        asked[group.label] += group.count
    for ban in wanted.exclude:
        if asked[ban.label] >= ban.count:
            raise ValueError(f"{asked[ban.label]} {ban.label} are asked for, but exclude forbids {ban.count} or more")
    return wanted


def require_distinct_groups(groups: Sequence[Group]) -> None:
    """Raise ValueError unless groups of one class each have a colour of their own: else no object tells whose it is."""
    by_label: dict[str, list[str | None]] = {}
    for group in groups:
        by_label.setdefault(group.label, []).append(group.color)
    for label, colors in by_label.items():
        if len(colors) > 1 and (None in colors or len(set(colors)) < len(colors)):
            raise ValueError(
                f"{len(colors)} include groups ask for {label!r} with colours {colors}; give each a colour of its own, or join "
                "them"
            )


def _parse_groups(metadata: Mapping[str, Any], key: str, allowed: Collection[str]) -> tuple[Group, ...]:
    entries = metadata.get(key, [])
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise ValueError(f"{key} is {entries!r}; give a list of groups")
    if len(entries) > MAX_GROUPS:
        raise ValueError(f"{key} has {len(entries)} groups; give at most {MAX_GROUPS}")
    return tuple(Group.parse(entry, f"{key}[{index}]", allowed) for index, entry in enumerate(entries))


def _parse_position(value: Any, where: str) -> Position:
    match value:
        case [str(relation), int(target)] if relation in RELATIONS and type(target) is int:
            return Position(relation=relation, target=target)
    raise ValueError(f"{where} is {value!r}; give [relation, index of an earlier group], the relation one of {list(RELATIONS)}")


def _require_text(value: Any, where: str) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_WORD:
        raise ValueError(f"{where} is {repr(value)[: 2 * MAX_WORD]}; give a word of at most {MAX_WORD} characters")
