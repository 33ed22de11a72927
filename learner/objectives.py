"""Which terms each objective is the sum of; a config's `algorithm.kind` names the objective."""

from typing import Any

from configs.schema import TrainConfig
from learner.terms.base import Term
from learner.terms.flow import FlowTerm
from learner.terms.fpo import FpoTerm
from learner.terms.refl import ReflTerm
from learner.terms.text import TextTerm

OBJECTIVES: dict[str, tuple[type[Term[Any]], ...]] = {
    "unigrpo": (TextTerm, FlowTerm),
    "flow_grpo": (FlowTerm,),
    "text_grpo": (TextTerm,),
    "fpo": (FpoTerm,),
    "uni_fpo": (TextTerm, FpoTerm),
    "refl": (ReflTerm,),
}
"""In the order in which an update goes through them."""


def needs_reference(config: TrainConfig) -> bool:
    """Whether some term compares with the frozen reference."""
    return any(term.compares(config) for term in OBJECTIVES[config.algorithm.kind])
