"""Watch the tensors that PyTorch makes."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):
    """Records the operators that run, and the bytes of the largest tensor they make.

    ``given`` tensors, views of them included, were there before and do not count. Backward
    passes on the CPU run in the calling thread and are watched as well.
    """

    def __init__(self, *given):
        super().__init__()
        self.given = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.largest = 0
        self.operators = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        self.operators.append(operator.overloadpacket.__name__)
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.given:
                    self.largest = max(self.largest, storage.nbytes())
        return result


def wasteful_step(megabytes):
    """A step that leaves so many MB (10^6 bytes) behind, made with much more that was freed."""
    waste = torch.ones(50_000_000)
    small = [torch.ones(1000) for _ in range(20_000)]
    del waste, small
    kept = []
    return lambda: kept.append(torch.ones(megabytes * 250_000))
