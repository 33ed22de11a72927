"""Data-parallel AdamW with DeepSpeed's ZeRO, stages 0 to 3: the only file that knows DeepSpeed.

An update takes micro-batches of any kinds in any order and follows the gradient of the plain sum of their losses over
micro-batches and ranks; DeepSpeed's averaging over ranks and accumulation steps is undone here, so no loss ever sees either
number. Losses run inside the engine's forward, where ZeRO-3 gathers and releases parameters; with stage 3 every rank must
therefore run the same kinds of micro-batch in the same order.

Policy and reference come without values and are filled after everything has its place, each rank reading its own part. So
masters have the precision of the file whatever is computed in, and no rank holds more than it keeps.

Left out on purpose: DeepSpeed's checkpoints (state is read and written a parameter at a time, whatever the number of ranks),
its schedulers, offloading, and its shared-memory collective, which takes a minute and a half to compile and is not needed.
"""

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from learner.deepspeed_settings import deepspeed_settings
from learner.optimizer import AdamWSettings, Rank, UpdateStats
from learner.partition import Flat, Part, compute_part, fill_frozen, master_part, place, unpadded

T = TypeVar("T")
Kind = Literal["master", "exp_avg", "exp_avg_sq"]
KINDS: tuple[Kind, ...] = ("master", "exp_avg", "exp_avg_sq")
_NOT_BROADCAST = "ds_optim_param"
"""Marks a parameter whose values rank 0 does not send to the others when the engine starts: every rank reads them itself."""
_STALE_GRADIENTS = "_DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition"


class _Host(nn.Module):
    """Runs any computation on its models as its own forward, so that the engine's hooks see one forward a micro-batch."""

    def __init__(self, model: nn.Module, reference: nn.Module | None) -> None:
        super().__init__()
        self.model, self.reference = model, reference

    def forward(self, compute: Callable[[], T]) -> T:
        return compute()


class ZeroEngine:
    """The model, its optimizer state and one update at a time. Every method but `updates` is a collective call.

    `model` and `reference` are on the meta device, in the compute dtype; they are taken over, and filled with the `values` of
    their parameters and buffers. `groups` names disjoint sets of the model's parameters, which are trained; whatever is in none
    is frozen, as the reference is: without master, moments and gradient, but cut up like the rest at stage 3, and computed with
    through `compute` and `update` alone. `timeout` is how many seconds ranks wait for each other in one collective. Sets the
    process's RANK, WORLD_SIZE and the like. Raises ValueError for bfloat16 at stage 0, which has no float32 masters.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Mapping[str, Sequence[str]],
        values: Flat,
        *,
        reference: nn.Module | None = None,
        stage: int,
        adamw: AdamWSettings,
        rank: Rank,
        timeout: float,
    ) -> None:
        low_precision = next(model.parameters()).dtype == torch.bfloat16
        if low_precision and stage == 0:
            raise ValueError("learner.zero_stage is 0 with learner.dtype bfloat16, which keeps no float32 masters; use stage 1")
        self._deepspeed = _start(rank, timeout)
        self._stage, self._world_size = stage, rank.world_size
        host = _Host(model, None if reference is None else reference.requires_grad_(False))
        trained = {name for names in groups.values() for name in names}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        num_elements = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        self._allocate(host)
        self._named = dict(model.named_parameters())
        self._trained = {name: parameter for name, parameter in self._named.items() if name in trained}
        self._groups = {name: [self._named[each] for each in names] for name, names in groups.items()}
        self._adamw = torch.optim.AdamW(
            [{"params": parameters, "name": name} for name, parameters in self._groups.items()],
            lr=0.0,
            betas=adamw.betas,
            eps=adamw.eps,
            weight_decay=adamw.weight_decay,
        )
        settings = deepspeed_settings(stage, adamw.max_grad_norm, num_elements, low_precision=low_precision)
        self._engine = self._deepspeed.initialize(model=host, optimizer=self._adamw, config=settings)[0]
        self._create_moments()
        for module in filter(None, (model, reference)):
            fill_frozen(module, values)
        self.load("master", values)

    @property
    def updates(self) -> int:
        """Updates made since the optimizer was new."""
        return int(next(iter(self._adamw.state.values()))["step"])

    @updates.setter
    def updates(self, count: int) -> None:
        for state in self._adamw.state.values():
            state["step"].fill_(count)

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the parameters that are trained, in the order of the model."""
        return tuple(self._trained)

    def compute(self, function: Callable[[], T]) -> T:
        """Run a computation on model or reference without gradient. What it returns is tensors, or lists and tuples of them."""
        with torch.no_grad():
            return self._engine(function)

    def update(self, losses: Iterable[Callable[[], Tensor]], learning_rates: Mapping[str, float]) -> UpdateStats:
        """One AdamW update along the gradient of the sum of all micro-batches' losses on all ranks.

        Each callable computes one micro-batch's scalar loss; there is at least one, and as many on every rank. One that reaches
        no trained parameter is only counted; the last one has to reach one. Raises FloatingPointError, on every rank and with
        the parameters untouched, if the loss or the gradient is not finite; the engine is of no use after that.
        """
        for group in self._adamw.param_groups:
            group["lr"] = learning_rates[group["name"]]
        if self._stage == 3:
            self._clear_stale_gradients()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for micro_batch, is_last in _marking_last(losses):
            self._engine.set_gradient_accumulation_boundary(is_last)
            loss = self._engine(micro_batch)
            if loss.requires_grad:
                self._engine.backward(loss * self._world_size, scale_wrt_gas=False)
            else:
                assert not is_last, "the last micro-batch of an update reaches no trained parameter"
            total += loss.detach()
        stats = self._stats(float(total), learning_rates)
        self._engine.step()
        return stats

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Whole parameters in the compute dtype, one at a time; each is valid until the next one is asked for."""
        for name, parameter in self._named.items():
            with self._deepspeed.zero.GatheredParameters([parameter], enabled=self._stage == 3):
                yield name, parameter.detach()

    def state(self, kind: Kind) -> Iterator[tuple[str, Tensor]]:
        """Whole float32 masters or moments of what is trained, one at a time, in the order of the model on all ranks."""
        utils = self._deepspeed.utils
        for name, parameter in self._trained.items():
            if self._is_plain:
                yield name, parameter.detach() if kind == "master" else self._adamw.state[parameter][kind]
            elif kind == "master":
                yield name, utils.safe_get_full_fp32_param(parameter)
            else:
                yield name, utils.safe_get_full_optimizer_state(parameter, kind)

    def load(self, kind: Kind, values: Flat) -> None:
        """Take over masters or moments of what is trained, each rank its own part; the compute copy follows its master."""
        for name, parameter in self._trained.items():
            self._part(parameter, kind).fill(name, values)
            if kind == "master" and not self._is_plain:
                compute_part(parameter).fill(name, values)

    def total(self, values: Sequence[float]) -> list[float]:
        """Each value summed over ranks."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def largest(self, values: Sequence[float]) -> list[float]:
        """Each value's largest over ranks."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def shared(self, text: str) -> str:
        """Rank 0's text, on every rank; what the others give is not looked at."""
        encoded_N = torch.tensor(list(text.encode()), dtype=torch.uint8, device=self.device)
        size = torch.tensor(len(encoded_N), device=self.device)
        dist.broadcast(size, 0)
        if dist.get_rank() != 0:
            encoded_N = encoded_N.new_empty(int(size))
        dist.broadcast(encoded_N, 0)
        return bytes(encoded_N.tolist()).decode()

    @property
    def device(self) -> torch.device:
        """Where the model is and losses are computed."""
        return torch.device(self._engine.device)

    @property
    def _is_plain(self) -> bool:
        """Stage 0 keeps the optimizer as it was given; the other stages cut it into flat partitions."""
        return self._stage == 0

    def _create_moments(self) -> None:
        """Give AdamW its zero state now rather than at the first update, so that it can be saved and restored at any time."""
        optimizer = self._engine.optimizer
        if self._stage == 3:
            masters = optimizer.fp32_partitioned_groups_flat
        else:
            masters = [master for group in self._adamw.param_groups for master in group["params"]]
        for master in masters:
            zeros = (torch.zeros_like(master.detach()) for _ in range(2))
            self._adamw.state[master] = dict(zip(("step", "exp_avg", "exp_avg_sq"), (torch.tensor(0.0), *zeros), strict=True))
        if self._stage in (1, 2):
            optimizer._lazy_init_hp_params_optimizer_state()

    def _clear_stale_gradients(self) -> None:
        """Zero ZeRO-3's gradient partitions.

        DeepSpeed 0.19.8 overwrites them only in the first micro-batch of an update and adds in later ones: a parameter that the
        first one does not use (the generation expert, when text goes first) would be updated with the last update's gradient
        once more.
        """
        for partition in getattr(self._engine.optimizer, _STALE_GRADIENTS).values():
            partition.zero_()

    def _stats(self, loss: float, learning_rates: Mapping[str, float]) -> UpdateStats:
        """Reduce the loss and the gradient norms over ranks and refuse what is not finite."""
        squares = [
            sum(float(gradient.double().square().sum()) for gradient in map(self._local_gradient, parameters))
            for parameters in self._groups.values()
        ]
        if self._is_plain:
            squares = [square / self._world_size for square in squares]
        total_loss, *squares = self.total([loss, *squares])
        norms = {name: square**0.5 for name, square in zip(self._groups, squares, strict=True)}
        stats = UpdateStats(
            loss=total_loss, grad_norm=sum(squares) ** 0.5, grad_norms=norms, learning_rates=dict(learning_rates)
        )
        if not math.isfinite(total_loss) or not math.isfinite(stats.grad_norm):
            raise FloatingPointError(
                f"update {self.updates + 1} has loss {total_loss} and gradient norms {norms}, which must be finite; the "
                "parameters are as they were. Lower the learning rates, or look at the samples of this step"
            )
        return stats

    def _local_gradient(self, parameter: Any) -> Tensor:
        """What this rank holds of a summed gradient: all of it at stage 0, its own partition (flat, maybe empty) otherwise."""
        if self._is_plain:
            return parameter.grad
        if self._stage == 3:
            return self._deepspeed.utils.safe_get_local_grad(parameter)
        mapping = parameter._hp_mapping
        if mapping is None:
            return parameter.new_zeros(0)
        gradient = mapping.get_lp_grad_fragment(parameter._index_in_param_group).flatten()
        if gradient.numel() == parameter.numel():
            address = mapping.lp_fragment_address
            return gradient.narrow(0, address.start, address.numel)
        return gradient

    def _part(self, parameter: Any, kind: Kind) -> Part:
        """This rank's part of a master or moment."""
        utils = self._deepspeed.utils
        if self._is_plain:
            return Part(0, (parameter.data if kind == "master" else self._adamw.state[parameter][kind]).view(-1))
        if self._stage < 3:
            return master_part(parameter, None if kind == "master" else kind)
        if kind == "master":
            return unpadded(utils.safe_get_local_fp32_param(parameter), parameter.ds_numel)
        return unpadded(utils.safe_get_local_optimizer_state(parameter, kind), parameter.ds_numel)

    def _allocate(self, host: nn.Module) -> None:
        """Give every parameter and buffer room: this rank's partition at stage 3, all of it otherwise."""
        place(host, torch.device("cuda" if torch.cuda.is_available() else "cpu"), in_turn=self._stage == 3)
        if self._stage == 3:
            self._deepspeed.zero.Init(module=host, mem_efficient_linear=False)
        else:
            for parameter in host.parameters():
                setattr(parameter, _NOT_BROADCAST, True)

    def _reduced(self, values: Sequence[float], operation: Any) -> list[float]:
        reduced = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(reduced, operation)
        return reduced.tolist()


def _start(rank: Rank, timeout: float) -> Any:
    """Join the process group, NCCL on GPUs and gloo elsewhere, unless this process already has; returns deepspeed."""
    on_gpu = torch.cuda.is_available()
    os.environ |= {
        "RANK": str(rank.rank),
        "WORLD_SIZE": str(rank.world_size),
        "LOCAL_RANK": "0",
        "LOCAL_SIZE": str(rank.world_size),
        "MASTER_ADDR": rank.master_addr,
        "MASTER_PORT": str(rank.master_port),
        "DS_ACCELERATOR": "cuda" if on_gpu else "cpu",
    }
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if not dist.is_initialized():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(
            dist_backend="nccl" if on_gpu else "gloo",
            auto_mpi_discovery=False,
            verbose=False,
            timeout=timedelta(seconds=timeout),
        )
    assert (dist.get_rank(), dist.get_world_size()) == (rank.rank, rank.world_size)
    return deepspeed


def _marking_last(items: Iterable[T]) -> Iterator[tuple[T, bool]]:
    """Each item with whether it is the last. Example: [a, b] -> (a, False), (b, True)."""
    pending = iter(items)
    current = next(pending)
    for following in pending:
        yield current, False
        current = following
    yield current, True
