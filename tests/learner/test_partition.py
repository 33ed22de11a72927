"""Room for parameters, and what of a padded partition is the parameter's."""

from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from learner.partition import place, unpadded
from tests.learner.standin import StandIn, flat_of


def test_parameters_that_are_cut_up_in_turn_share_the_room_of_the_largest() -> None:
    model = StandIn().to("meta")
    model.get_parameter("head.bias").requires_grad_(False)
    place(model, torch.device("cpu"), in_turn=True)
    storages = {parameter.untyped_storage().data_ptr(): parameter.untyped_storage() for parameter in model.parameters()}
    [storage] = storages.values()
    assert storage.nbytes() == 4 * max(parameter.numel() for parameter in model.parameters())
    for name, parameter in StandIn().named_parameters():
        assert model.get_parameter(name).shape == parameter.shape
        assert model.get_parameter(name).requires_grad == (name != "head.bias")


def test_otherwise_each_parameter_and_buffer_has_its_own() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).to("meta")
    place(model, torch.device("cpu"), in_turn=False)
    values = model.state_dict()
    assert len({value.data_ptr() for value in values.values()}) == len(values) == 7
    assert {value.device.type for value in values.values()} == {"cpu"}


@pytest.mark.parametrize(("rank", "held"), [(0, [0.0, 1.0, 2.0]), (1, [3.0, 4.0]), (2, [])])
def test_the_last_partitions_end_in_zeros(rank: int, held: list[float]) -> None:
    """Five elements over three ranks, three places each."""
    partition = torch.full((3,), torch.nan)
    with patch("torch.distributed.get_rank", return_value=rank):
        part = unpadded(partition, 5)
    part.fill("weight", flat_of({"weight": torch.arange(5.0)}))
    assert_close(partition, torch.tensor(held + [0.0] * (3 - len(held))))
