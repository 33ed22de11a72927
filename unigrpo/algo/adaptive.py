"""A regulariser's weight, steered so that what it holds back keeps to a target (Ziegler et al., arXiv:1909.08593, section 2.2).

There the weight of a KL penalty follows the KL measured on each batch; here that of the velocity MSE follows the painter's
drift from the reference.
"""

import math


def adapted_weight(weight: float, drift: float, target: float, rate: float, *, least: float) -> float:
    """The weight of the next step: weight * (1 + rate * clip(drift / target - 1, -1, 1)), and never below `least`.

    A run begins at the reference, without any drift: not held from below, the weight would be gone by the time it is needed.
    Example: weight 1, rate .1, and a drift of twice the target or more give 1.1; of half the target .95, or `least`.

    Args:
        weight: of this step.
        drift: what this step measured, 0 or more.
        target: what it is to be, above 0.
        rate: largest relative change of one step, in (0, 1).
        least: the weight that training begins with.

    Raises:
        ValueError: a drift that is negative or not finite, a target that is not positive, or a rate outside (0, 1).
    """
    if not (math.isfinite(drift) and drift >= 0):
        raise ValueError(f"the drift is {drift}, which must be finite and not negative; look at the velocities of this step")
    if not (target > 0 and 0 < rate < 1):
        raise ValueError(f"target is {target} and rate is {rate}; give a positive target and a rate in (0, 1)")
    error = min(max(drift / target - 1, -1.0), 1.0)
    return max(least, weight * (1 + rate * error))
