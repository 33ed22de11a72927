"""Weights into a running vLLM engine of the same process: no restart, no file, no serialisation.

It goes through vLLM's weight-transfer interface rather than `model.load_weights`, because on CPUs vLLM keeps linear layers
packed and their plain weights empty: each layer has to be restored, loaded and packed again. Engines of other transports
(nccl) come with vLLM. Importing this module imports vllm.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

BACKEND = "uni_inproc"


@dataclass
class InProcessInit(WeightTransferInitInfo):
    """Nothing to connect."""


@dataclass
class InProcessUpdate(WeightTransferUpdateInfo):
    """The whole model in one update."""

    tensors: Iterable[tuple[str, Tensor]]
    """Checkpoint name and tensor of every weight."""


class InProcessWeights(WeightTransferEngine):
    """Loads tensors of this process into the model of this process."""

    init_info_cls = InProcessInit
    update_info_cls = InProcessUpdate

    def init_transfer_engine(self, init_info: InProcessInit) -> None:
        """Nothing to connect."""

    def start_weight_update(self) -> None:
        """Restore every layer to what a checkpoint loads into."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict) -> None:
        """Load all tensors; when that fails, forget those that came, lest the next update mixes with them."""
        try:
            self.receive_weights(self.parse_update_info(update_info))
        except BaseException:
            finalize_layerwise_reload(self.model, self.model_config)
            raise
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: InProcessUpdate) -> None:
        """Raises ValueError naming the weights of the model that the update left out.

        vLLM itself would go on with the old ones, most quietly with a head tied to the embedding, of which a CPU engine keeps a
        packed copy of its own. BAGEL's head is never tied.
        """
        expected = {name for name, _ in self.model.named_parameters()}
        left_out = expected - self.model.load_weights(iter(update_info.tensors))
        if left_out:
            raise ValueError(f"the update left out {sorted(left_out)}; it must hold every weight of the model")

    def finish_weight_update(self) -> None:
        """Pack the layers that are not yet packed."""
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Nothing to release."""


def register() -> None:
    """Make BACKEND known to vLLM, once a process."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, InProcessWeights)
