"""What is said where Ray does not start."""

from collections.abc import Callable
from typing import Any

import pytest
import ray

from cluster.faults import Fault
from cluster.placement import connect
from configs.load import ConfigError
from configs.roles import ClusterConfig


@pytest.mark.parametrize("error", [OSError("the node timed out"), ConnectionError("the node timed out")])
def test_a_fresh_ray_that_does_not_start_is_no_fault_of_the_code_or_the_config(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(ray, "init", fails_with(error))
    with pytest.raises(Fault, match="Ray did not start: the node timed out; if this machine is busy"):
        connect(ClusterConfig())


def test_a_running_ray_that_cannot_be_joined_is_told_apart_from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "init", fails_with(ConnectionError("nothing")))
    with pytest.raises(ConfigError, match=r"cluster\.address is auto, and no Ray answers there"):
        connect(ClusterConfig(address="auto"))
    monkeypatch.setattr(ray, "init", fails_with(OSError("versions differ")))
    with pytest.raises(OSError, match="versions differ"):
        connect(ClusterConfig(address="auto"))


def fails_with(error: Exception) -> Callable[..., None]:
    def fails(**_: Any) -> None:
        raise error

    return fails
