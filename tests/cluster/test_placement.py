"""What is said where Ray does not start."""

from typing import Any

import pytest
import ray

from cluster.faults import Fault
from cluster.placement import connect
from configs.roles import ClusterConfig


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [("local", Fault, "Ray did not start: the node timed out; if this machine is busy"), ("auto", OSError, "node")],
)
def test_a_fresh_ray_that_does_not_start_is_no_fault_of_the_code(
    monkeypatch: pytest.MonkeyPatch, address: str, error: type[Exception], said: str
) -> None:
    def fails(**_: Any) -> None:
        raise OSError("the node timed out")

    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(error, match=said):
        connect(ClusterConfig(address=address))
