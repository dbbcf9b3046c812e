"""Several devices or processes: the world that `torchrun` describes, gradient averages, FSDP2."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn


def start(device: torch.device) -> torch.device:
    """Join the process group when started by `torchrun`; returns this process's device."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return device
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def finish() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process, 0 when alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def average_gradients_(parameters: Iterable[nn.Parameter]) -> None:
    """Mean of the gradients over all processes, in one message; sharded parameters do this by themselves."""
    if world() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None and not hasattr(p.grad, "placements")]
    if not gradients:
        return
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= world()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def broadcast_(module: nn.Module) -> None:
    """Give every process the weights of process 0."""
    if world() > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)


def any_process(condition: bool) -> bool:
    """Whether the condition holds in any process; all processes must ask."""
    if world() == 1:
        return condition
    votes = torch.tensor([float(condition)])
    if dist.get_backend() == "nccl":
        votes = votes.cuda()
    dist.all_reduce(votes)
    return bool(votes.item() > 0)


def shard_(module: nn.Module, blocks: Iterable[nn.Module]) -> None:
    """Shard `module` over all processes with FSDP2: each of `blocks` by itself, then the rest."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in blocks:
        fully_shard(block, mp_policy=policy)
    fully_shard(module, mp_policy=policy)
