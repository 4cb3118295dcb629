"""Training by several processes, each on a part of every batch, over ``torch.distributed``.

``torchrun`` starts the same command several times. Every process reads the same files and draws the same crops, takes
its share of each batch, and averages the gradients with the others, so that all hold the same weights at every step.
What could differ between processes (time, Stop, scores) is taken from the first one, or from all together::

    with distributed.joined(settings.device):
        train(...)

``current()`` is then a ``Together``; in an ordinary run it is an ``Alone``, whose methods cost nothing.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from . import devices
from .errors import Cancelled, ResourceError, SettingsError, VolumeSegmanticsError
from .events import Event, Report
from .ranks import Rank, own_rank

LEAST_SHARE = 2  # crops of a batch: batch norm needs more than one

_joins = itertools.count()


class Alone:
    """The only process of a training.

    Attributes:
        rank: Which process this is.
    """

    rank = Rank()

    def own(self, batch_size: int) -> slice:
        """Return which crops of a batch are this process's."""
        return slice(0, batch_size)

    def heard(self, report: Report) -> Report:
        """Return the report to use: where there are others, ``Cancelled`` waits for the next meeting."""
        return report

    def meet(self) -> None:
        """Wait for the others; all raise ``Cancelled`` where one was asked to stop."""

    def now(self) -> float:
        """Return the time in seconds, the same for all."""
        return time.monotonic()

    def as_first(self, numbers: Tensor) -> Tensor:
        """Return the numbers that the first process has; a float64 tensor on the CPU."""
        return numbers

    def total(self, numbers: Tensor) -> Tensor:
        """Return the sum over all processes, as part of a loss that all compute from it alike."""
        return numbers

    def ready(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return what the steps of the training call: the same network, with gradients that are those of all."""
        return network

    def finish(self, network: nn.Module) -> None:
        """Make a network again as it was before ``ready``."""


class Together(Alone):
    """One of several processes.

    Args:
        rank: Which one.
        device: The setting: ``"auto"``, ``"cuda"`` or ``"cpu"``.

    Raises:
        ResourceError: The machine has fewer GPUs than processes.
        SettingsError: The device is one that the processes cannot share.
    """

    def __init__(self, rank: Rank, device: str) -> None:
        self.rank = rank
        self._on_gpu = _own_device(device, rank).type == "cuda"
        store = next(dist.rendezvous("env://", rank.number, rank.count))[0]
        self._store = dist.PrefixStore(f"training {next(_joins)}", store)
        backend = "nccl" if self._on_gpu else "gloo"
        dist.init_process_group(backend, store=self._store, rank=rank.number, world_size=rank.count)
        self._words = dist.new_group(backend="gloo")  # never waits for a GPU
        self._stop, self._now = False, 0.0

    def own(self, batch_size: int) -> slice:
        """Return which crops of a batch are this process's."""
        count = self.rank.count
        if batch_size % count or batch_size < LEAST_SHARE * count:
            fitting = count * max(LEAST_SHARE, math.ceil(batch_size / count))
            raise SettingsError(
                f"A batch of {batch_size} crops cannot be shared evenly by {count} processes.",
                f"Set batch_size={fitting}: each process takes as many crops, {LEAST_SHARE} at least.",
            )
        share = batch_size // count
        return slice(self.rank.number * share, (self.rank.number + 1) * share)

    def heard(self, report: Report) -> Report:
        """Return a report that keeps ``Cancelled`` for the next meeting, lest the others wait for ever."""

        def told(event: Event) -> None:
            try:
                report(event)
            except Cancelled:
                self._stop = True

        return told

    def meet(self) -> None:
        """Wait for the others; all take the time of the first one, and raise ``Cancelled`` where one has to stop."""
        own = time.monotonic() if self.rank.is_first else -math.inf
        met = torch.tensor([own, float(self._stop)], dtype=torch.float64)
        dist.all_reduce(met, dist.ReduceOp.MAX, group=self._words)
        self._now = float(met[0])
        if met[1]:
            raise Cancelled

    def now(self) -> float:
        """Return the time of the last meeting."""
        return self._now

    def as_first(self, numbers: Tensor) -> Tensor:
        """Return the numbers that the first process has."""
        numbers = numbers.clone()
        dist.broadcast(numbers, 0, group=self._words)
        return numbers

    def total(self, numbers: Tensor) -> Tensor:
        """Return the sum over all processes."""
        summed: Tensor = _Sum.apply(numbers)  # type: ignore[no-untyped-call]
        return summed

    def ready(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return the network with averaged gradients; on GPUs its batch norms, exchanged here, see whole batches."""
        if self._on_gpu:
            _exchange(network, nn.BatchNorm2d, nn.SyncBatchNorm)
        return _Averaged(network)

    def finish(self, network: nn.Module) -> None:
        """Give a network its own batch norms back."""
        _exchange(network, nn.SyncBatchNorm, nn.BatchNorm2d)

    def explained(self, error: BaseException) -> BaseException:
        """Tell the others what ended this process, and return what ended the first of all."""
        own = first = _as_word(error)
        with suppress(RuntimeError):  # whoever keeps the words may be gone too
            first = self._store.compare_set("word", "", own).decode()
        return error if first == own and not _is_of_connection(error) else _from_word(first)

    def leave(self, *, has_failed: bool) -> None:
        """Leave the others; a GPU may wait for ever for one that has failed, and is left to the end of the process."""
        if not (has_failed and self._on_gpu):
            dist.destroy_process_group()


_team: list[Alone] = [Alone()]


def current() -> Alone:
    """Return the processes that train together at the moment."""
    return _team[-1]


@contextmanager
def joined(device: str) -> Iterator[Alone]:
    """Train together with the other processes that ``torchrun`` has started; without any, this changes nothing.

    Args:
        device: The setting; each process takes its own GPU where there are any.

    Raises:
        VolumeSegmanticsError: What another process has failed with.
        Cancelled: Another process was asked to stop.
    """
    rank = own_rank()
    if rank.count == 1:
        yield current()
        return
    team = Together(rank, device)
    _team.append(team)
    has_failed = True
    try:
        yield team
        has_failed = False
    except BaseException as error:
        explained = team.explained(error)
        if explained is error:
            raise
        raise explained from error
    finally:
        _team.pop()
        team.leave(has_failed=has_failed)


class _Averaged:
    """A network whose gradients are averaged over all processes, whatever part of it learns at the moment."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._wrapped: nn.Module = network
        self._learning: list[bool] = []

    def __call__(self, images: Tensor) -> Tensor:
        learning = [parameter.requires_grad for parameter in self._network.parameters()]
        if learning != self._learning:
            has_unused = _has_unused(self._network, images)
            self._wrapped = nn.parallel.DistributedDataParallel(self._network, find_unused_parameters=has_unused)
            self._learning = learning
        return self._wrapped(images)  # type: ignore[no-any-return]


def _has_unused(network: nn.Module, images: Tensor) -> bool:
    """Tell whether some of the weights that could learn do not enter the answer; it has to be known beforehand."""
    network(images).sum().backward()
    has_unused = any(p.requires_grad and p.grad is None for p in network.parameters())
    network.zero_grad(set_to_none=True)
    return has_unused


class _Sum(torch.autograd.Function):
    """The sum over all processes.

    Every process computes the same loss from it, and the gradients of all are averaged in the end; to be those of one
    such loss, they have to be as many times larger here.
    """

    @staticmethod
    def forward(context: Any, numbers: Tensor) -> Tensor:
        summed = numbers.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * dist.get_world_size()


def _own_device(setting: str, rank: Rank) -> torch.device:
    """Return the device of this process; where it is a GPU, "cuda" means this one from now on."""
    device = devices.choose(setting)
    if device.type == "mps" or device.index is not None:
        raise SettingsError(f'Several processes cannot train on "{setting}".', "Set the device to auto, cuda or cpu.")
    if device.type == "cuda":
        if rank.on_machine >= torch.cuda.device_count():
            raise ResourceError(
                f"This machine has {torch.cuda.device_count()} GPUs, and more processes than that were started.",
                f"Start it with torchrun --nproc-per-node {torch.cuda.device_count()}.",
            )
        torch.cuda.set_device(rank.on_machine)
    return device


def _exchange(network: nn.Module, kind: type[Any], other: type[Any]) -> None:
    """Exchange all batch norms of one kind, in place; weights and statistics stay the same tensors."""
    for name, module in network.named_children():
        if type(module) is kind:  # others, such as timm's, do more than to normalise
            setattr(network, name, _alike(module, other))
        else:
            _exchange(module, kind, other)


def _alike(norm: Any, kind: type[Any]) -> nn.Module:
    made = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    made.weight, made.bias = norm.weight, norm.bias
    made.running_mean, made.running_var = norm.running_mean, norm.running_var
    made.num_batches_tracked = norm.num_batches_tracked
    return made.train(norm.training)  # type: ignore[no-any-return]


def _as_word(error: BaseException) -> str:
    """Return an error as text, for the others."""
    if isinstance(error, Cancelled | KeyboardInterrupt):
        return json.dumps({"cancelled": True})
    if isinstance(error, VolumeSegmanticsError):
        return json.dumps({"message": error.message, "hint": error.hint})
    if devices.is_out_of_memory(error):
        return json.dumps(
            {"message": "A process of this training has no memory left.", "hint": "Set batch_size lower."}
        )
    if _is_of_connection(error):
        message = "Another process of this training has ended without a word."
        return json.dumps({"message": message, "hint": "Perhaps its machine ran out of memory; see what it printed."})
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return json.dumps({"message": f"A process of this training has failed ({text}).", "hint": "See what it printed."})


def _is_of_connection(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or "gloo" in str(error))


def _from_word(word: str) -> Exception:
    told = json.loads(word)
    return Cancelled() if "cancelled" in told else VolumeSegmanticsError(**told)
