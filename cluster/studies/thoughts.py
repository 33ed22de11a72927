"""How good the thoughts of an evaluation on the shapes world are, and how closely its pictures follow them."""

from collections.abc import Callable, Sequence
from statistics import fmean

from cluster.rollouts import Group, paintings_of
from unigrpo.shapes.detect import detect, followed
from unigrpo.shapes.plan import plan_is_correct, read_trace


def plan_scores(groups: Sequence[Group], decode: Callable[[Sequence[int]], str], *, timeout: float) -> dict[str, float]:
    """`plan_correct`: share of pictures whose thought is a plan that satisfies the prompt. `follow`: mean share of a plan's
    objects that were painted as planned, over pictures with a plan; left out where no thought is one.
    """
    correct, follow = [], []
    for group, paintings in zip(groups, paintings_of(groups, timeout=timeout), strict=True):
        for thought, painting in zip(group.thoughts_G, paintings, strict=True):
            assert thought is not None, "asked of evaluations with thoughts"
            plan = read_trace(decode(thought.token_ids))
            correct.append(plan is not None and plan_is_correct(group.prompt.metadata, plan))
            if plan is not None:
                follow.append(followed(plan, detect(painting.image_HW3)))
    return {"plan_correct": fmean(correct)} | ({"follow": fmean(follow)} if follow else {})
