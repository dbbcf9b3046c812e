"""Several devices or processes: the world that `torchrun` describes, gradient averages, FSDP2."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from ms_infer.model.transformer import Block, Transformer


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
    gradients = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
    if not gradients:
        return
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= world()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def broadcast_(module: nn.Module) -> None:
    """Give every process the weights of process 0, but for those that are sharded already."""
    if world() > 1:
        for tensor in module.state_dict().values():
            if not isinstance(tensor, DTensor):
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


def clip_gradients_(parameters: Sequence[nn.Parameter], limit: float) -> float:
    """Scale all gradients to a joint norm of at most `limit`; returns the norm before. Sharded ones count whole."""
    kinds = [
        [p for p in parameters if p.grad is not None and isinstance(p.grad, DTensor) == cut] for cut in (False, True)
    ]
    kinds = [kind for kind in kinds if kind]  # torch mixes the two in no operation
    norms = [nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None]) for kind in kinds]
    norm = torch.stack([_whole(part) for part in norms]).norm() if norms else torch.zeros(())
    for kind in kinds:
        nn.utils.clip_grads_with_norm_(kind, limit, norm)
    return float(norm)


def shard_(transformer: Transformer) -> None:
    """Shard over all processes with FSDP2: each block and each cross-attention by itself, then the rest.

    Alone, nothing happens. Weights are gathered in float32: autocast computes in bf16, and FSDP's own casting would
    round timesteps. `condition` and `keys` use weights outside `forward`, so they gather as `forward` does.
    """
    if world() == 1:
        return
    for block in transformer.blocks:
        attention = cast(Block, block).cross_attn
        fully_shard(attention)
        register_fsdp_forward_method(attention, "keys")
        fully_shard(block)
    fully_shard(transformer)
    register_fsdp_forward_method(transformer, "condition")


def gathered(state: Any) -> Any:
    """A nested state with every sharded tensor whole, on the CPU, and None on others than process 0; all must ask."""
    if isinstance(state, dict):
        return {name: gathered(value) for name, value in state.items()}
    if isinstance(state, DTensor):
        whole = _whole(state)
        return whole.cpu() if rank() == 0 else None
    return state


def load_state_(part: Any, state: dict[str, Any]) -> None:
    """`part.load_state_dict` of whole tensors; each process keeps its share of those that the part has sharded."""
    if isinstance(part, torch.optim.Optimizer):
        parameters = (p for group in part.param_groups for p in group["params"])
        part.load_state_dict(_cut(state, {"state": dict(enumerate(parameters))}))
    else:
        part.load_state_dict(_cut(state, part.state_dict()))


def _cut(state: Any, like: Any) -> Any:
    """Tensors of `state` sharded as the tensor in its position in `like`, or the one that stands for all below it."""
    if isinstance(state, dict):
        return {name: _cut(value, like.get(name) if isinstance(like, dict) else like) for name, value in state.items()}
    if isinstance(state, Tensor) and isinstance(like, DTensor) and state.shape == like.shape:
        return distribute_tensor(state.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return state


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
