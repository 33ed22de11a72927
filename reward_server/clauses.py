"""Two scores of our own: how much of a prompt a picture meets, and whether it meets all of it.

GenEval asks for at least n objects and lets anything else pass, which invites a painter to fill the picture. Here a prompt is
a list of clauses, each of which holds or does not:

- **count** of each include group: exactly the asked number of objects is the group's.
- **colour** of each include group that names one: the group has its number or more, and every one of its objects is that
  colour.
- **relation** of each include group that names one: the group and its target each have their number or more, and every object
  of the group stands in the relation to every object of the target.
- **nothing extra**, one a prompt: something asked for is there, no group has more than its number, nothing is of another
  class, and nothing is unrecognised.

Whose an object is: an object of a class that one group asks for is that group's, whatever its colour. Where several groups ask
for one class (in different colours), they first take objects of their own colour up to their number; then groups that are
short take what is left, which is how a wrong colour costs the colour and not the count as well; a surplus goes to the group of
its colour, or else to the first. Excluded numbers need no clause: exact counts and nothing extra leave no room for them.

*strict* is 1 when every clause holds, else 0. *graded* is the share of clauses that hold. The definitions are chosen so that
it does not pay to paint more, fewer or nothing: a blank picture scores 0 on both; an object too few costs the count and the
colour, one too many the count and nothing extra; an object that was not missing never makes a clause hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from reward_server.detections import Detection, relations
from reward_server.requirements import Group, Requirements, require_distinct_groups


@dataclass(frozen=True, slots=True)
class Clause:
    """One thing that was asked for. Example: Clause("count of 3 red circle", holds=False)."""

    name: str
    """What is asked, for the gallery."""
    holds: bool
    """Whether the picture shows it."""


def clauses(wanted: Requirements, objects: Sequence[Detection], *, unrecognised: int) -> tuple[Clause, ...]:
    """Every clause of a prompt, judged on the objects of its picture and the number of things that are none.

    `objects` are those that count (already thresholded). Raises ValueError for requirements that ask for nothing or whose
    groups of one class colours do not tell apart.
    """
    if not wanted.include:
        raise ValueError("the prompt asks for no object, so there are no clauses to judge; give it an include group")
    require_distinct_groups(wanted.include)
    shares = share_out(wanted.include, objects)
    judged: list[Clause] = []
    for group, share in zip(wanted.include, shares, strict=True):
        enough = len(share) >= group.count
        judged.append(Clause(f"count of {_name(group)}", len(share) == group.count))
        if group.color is not None:
            in_color = all(seen.color == group.color for seen in share)
            judged.append(Clause(f"colour of {_name(group)}", enough and in_color))
        if group.position is not None:
            target, target_share = wanted.include[group.position.target], shares[group.position.target]
            placed = all(group.position.relation in relations(a.box, b.box) for a, b in product(share, target_share))
            name = f"{_name(group)} {group.position.relation} {_name(target)}"
            judged.append(Clause(name, enough and len(target_share) >= target.count and placed))
    num_shared = sum(map(len, shares))
    surplus = any(len(share) > group.count for group, share in zip(wanted.include, shares, strict=True))
    judged.append(Clause("nothing extra", 0 < num_shared == len(objects) and not surplus and unrecognised == 0))
    return tuple(judged)


def strict(judged: Sequence[Clause]) -> float:
    """1.0 when every clause holds, else 0.0."""
    return float(all(clause.holds for clause in judged))


def graded(judged: Sequence[Clause]) -> float:
    """The share of clauses that hold, in [0, 1]."""
    return sum(clause.holds for clause in judged) / len(judged)


def share_out(groups: Sequence[Group], objects: Sequence[Detection]) -> list[list[Detection]]:
    """The objects of each group, by the rule in the module's header; objects of no group's class are left out."""
    shares: list[list[Detection]] = [[] for _ in groups]

    def short(index: int) -> bool:
        return len(shares[index]) < groups[index].count

    leftover = []
    for seen in objects:
        own = [i for i, group in enumerate(groups) if (group.label, group.color) == (seen.label, seen.color) and short(i)]
        if own:
            shares[own[0]].append(seen)
        else:
            leftover.append(seen)
    for seen in leftover:
        homes = [i for i, group in enumerate(groups) if group.label == seen.label]
        if homes:
            homes.sort(key=lambda i: (not short(i), groups[i].color != seen.color))
            shares[homes[0]].append(seen)
    return shares


def _name(group: Group) -> str:
    return " ".join([str(group.count), *([group.color] if group.color else []), group.label])
