"""Synchronised batch norm: PyTorch's SyncBatchNorm on GPUs, and an equivalent with collectives for CPUs."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


def synchronise_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """Let every batch norm of a module see the batch of all processes; gives the changed module.

    Args:
        module: Changed in place; its parameters and running statistics stay.
        device: Where it will train.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            setattr(module, name, CollectiveBatchNorm.like(child))
        else:
            synchronise_batch_norm(child, device)
    return module


class CollectiveBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over all processes on any backend; `nn.SyncBatchNorm` refuses tensors on the CPU.

    Every process must hold a batch of the same size.
    """

    @classmethod
    def like(cls, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> "CollectiveBatchNorm":
        """A synchronised batch norm with the parameters and buffers of another."""
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made.weight, made.bias = norm.weight, norm.bias
        made.running_mean, made.running_var = norm.running_mean, norm.running_var
        made.num_batches_tracked = norm.num_batches_tracked
        made.training = norm.training
        return made

    def _check_input_dim(self, input: Tensor) -> None:
        """Tensors of every rank that batch norm knows are welcome."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (n, channels, ...) with the mean and variance of all processes' batches."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        dims = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean = all_reduce(x.sum(dims)) / count
        centred = x - mean.view(shape)
        variance = all_reduce(centred.square().sum(dims)) / count
        self._track(mean.detach(), variance.detach(), count)
        normal = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        if self.num_batches_tracked is not None:  # None in `statistics_kept`
            self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        unbiased = variance * count / max(count - 1, 1)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
