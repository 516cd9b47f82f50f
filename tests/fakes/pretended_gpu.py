"""A GPU that is not there: a device 'cuda' whose tensors are computed, out of sight, on the CPU.

Engines and loops run on it unchanged. Tensors of two devices that meet raise as on a card; what
passes between them, and who waits for it, is counted by the line that asked.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.grad_mode import inference_mode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
COPIES = {aten._to_copy.default, aten.copy_.default}
_HERE, _TORCH = __file__, str(Path(torch.__file__).parent)
_ROOT = Path(__file__).parents[2]


class OnGpu(Tensor):
    """A tensor of the pretended GPU; `hidden` has its values."""

    hidden: Tensor

    @staticmethod
    def __new__(cls, hidden: Tensor) -> "OnGpu":
        """Show what `hidden` is, but for its device."""
        made: OnGpu = Tensor._make_wrapper_subclass(
            cls,
            hidden.size(),
            strides=hidden.stride(),
            storage_offset=hidden.storage_offset(),
            dtype=hidden.dtype,
            layout=hidden.layout,
            device="cuda:0",
        )
        made.hidden = hidden
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any) -> Any:
        """Refuse: the card is gone."""
        raise AssertionError(f"{func} on a pretended GPU after its end")

    def tolist(self) -> Any:
        """Read all values in one copy, as PyTorch does."""
        return self.cpu().tolist()

    def __repr__(self) -> str:  # PyTorch's own copies values for it
        return f"OnGpu{tuple(self.shape)}"


class PretendedGpu(TorchDispatchMode):
    """Leaves the CPU alone, computes what lies on the GPU, and counts.

    `waits` are the places where the host stands still until the device is done: values read,
    copies down, and copies up from pageable memory, after which PyTorch synchronises the stream
    (`memcpy_and_sync` in aten/src/ATen/native/cuda/Copy.cu). `uploads` are all copies up.
    """

    def __init__(self) -> None:
        super().__init__()
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE  # else PyTorch looks for a driver
        self.waits: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self._pinned: dict[int, Tensor] = {}

    @classmethod
    def is_infra_mode(cls) -> bool:
        """See `FakeTensorMode`, in whose place it stands."""
        return True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation where it is asked for."""
        kwargs = dict(kwargs or {})
        tensors = [each for each in _flat((*args, *kwargs.values())) if isinstance(each, Tensor)]
        there = [each for each in tensors if isinstance(each, OnGpu)]
        place = torch.device(kwargs["device"]).type if kwargs.get("device") else None
        if func is torch.ops.prim.device.default:
            return torch.device("cuda:0")
        if func is aten._fused_sdp_choice.default and there:
            return torch.nn.attention.SDPBackend.MATH.value
        if not there and place != "cuda":
            return func(*args, **kwargs)
        self._count(func, args, kwargs, place)
        _same_device(func, there, tensors)
        if place is not None:
            kwargs["device"] = "cpu"
        found = func(*map(_bare, args), **{name: _bare(each) for name, each in kwargs.items()})
        if func._schema.is_mutable:
            return _written(func, args, kwargs)
        if place == "cpu":
            return found
        return _shown(found)

    def pinned(self, tensor: Tensor) -> Tensor:
        """Return a copy that counts as pinned: without a card nothing can be."""
        copy = tensor.clone()
        return self._pinned.setdefault(copy.data_ptr(), copy)

    def _count(self, func: Any, args: Sequence[Any], kwargs: Any, place: str | None) -> None:
        """Count what an operation moves between the devices, and whether anybody waits for it."""
        up = down = False
        gentle = bool(kwargs.get("non_blocking", False))
        if func is aten._local_scalar_dense.default:
            down, gentle = True, False
        elif func in INDEXED:
            up, gentle = any(_plain(each) for each in args[1]), False
        elif func in COPIES:
            into = func is aten.copy_.default
            source, target = (args[1], args[0]) if into else (args[0], place)
            gentle = bool(args[2]) if into and len(args) > 2 else gentle
            up = _plain(source) and (isinstance(target, OnGpu) or target == "cuda")
            down = isinstance(source, OnGpu) and (_plain(target) or target == "cpu")
            gentle = gentle and (down or source.data_ptr() in self._pinned)
        if up:
            self.uploads[_place()] += 1
        if (up or down) and not gentle:
            self.waits[_place()] += 1


def _same_device(func: Any, there: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    """Raise where tensors of the CPU meet those of the GPU; pointwise, one may be a scalar."""
    if func in COPIES or func in INDEXED or not there:
        return
    scalars = torch.Tag.pointwise in func.tags or func is aten.fill_.Tensor
    if strangers := [t for t in tensors if _plain(t) and not (scalars and t.ndim == 0)]:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0"
            f" and cpu ({func} of {tuple(strangers[0].shape)})"
        )


def _written(func: Any, args: Sequence[Any], kwargs: Any) -> Any:
    """Return what an operation that writes in place returns: what it wrote to."""
    arguments = func._schema.arguments
    given = dict(zip([each.name for each in arguments], args, strict=False)) | kwargs
    written = [
        given[each.name] for each in arguments if each.alias_info and each.alias_info.is_write
    ]
    return written[0] if len(func._schema.returns) == 1 else None


def _flat(values: Sequence[Any]) -> list[Any]:
    """Return arguments, lists of tensors among them opened."""
    found: list[Any] = []
    for each in values:
        found += each if isinstance(each, (list, tuple)) else (each,)
    return found


def _bare(each: Any) -> Any:
    """Return an argument as the CPU takes it."""
    if isinstance(each, (list, tuple)):
        return [_bare(one) for one in each]
    return each.hidden if isinstance(each, OnGpu) else each


def _shown(found: Any) -> Any:
    """Return a result as the GPU gives it."""
    if isinstance(found, (list, tuple)):
        return type(found)(map(_shown, found))
    return OnGpu(found) if isinstance(found, Tensor) else found


def _plain(each: Any) -> bool:
    return isinstance(each, Tensor) and not isinstance(each, OnGpu)


def _place() -> str:
    """Return the line outside PyTorch that asked: 'factory/sample/loop.py:44'."""
    frame: Any = sys._getframe(2)
    while frame.f_code.co_filename == _HERE or frame.f_code.co_filename.startswith((_TORCH, "<")):
        frame = frame.f_back
    name = Path(frame.f_code.co_filename)
    short = name.relative_to(_ROOT) if name.is_relative_to(_ROOT) else Path(*name.parts[-2:])
    return f"{short}:{frame.f_lineno}"


@contextmanager
def pretended_gpu() -> Iterator[PretendedGpu]:
    """Give the process a device 'cuda' for a while.

    Its gradients are zeros, of the leaves that a backward pass would reach: autograd's engine asks
    for threads of a real device.
    """
    gpu = PretendedGpu()
    backward, grad = torch.autograd.backward, torch.autograd.grad

    def reach(tensors: Any, *args: Any, **kwargs: Any) -> None:
        if not any(isinstance(each, OnGpu) for each in _flat([tensors])):
            backward(tensors, *args, **kwargs)
        for leaf in _leaves([each.grad_fn for each in _flat([tensors])]):
            leaf.grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad

    def reached(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        wanted = _flat([inputs])
        if not any(isinstance(each, OnGpu) for each in wanted):
            return tuple(grad(outputs, inputs, *args, **kwargs))
        return tuple(torch.zeros_like(each) for each in wanted)

    def enter(mode: Any) -> None:  # in inference mode composed operations arrive undivided
        mode._inference_mode_context = torch.no_grad() if mode.mode else nullcontext()
        mode._inference_mode_context.__enter__()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "backward", reach)
        patch.setattr(torch.autograd, "grad", reached)
        patch.setattr(torch.cuda, "get_device_name", lambda *_: "pretended")
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
        patch.setattr(torch.backends.cudnn, "enabled", False)  # its batch norm is of no CPU
        patch.setattr(torch.cuda, "get_rng_state", lambda *_: torch.get_rng_state())
        patch.setattr(torch.cuda, "set_rng_state", lambda state, *_: torch.set_rng_state(state))
        patch.setattr(torch.cuda, "manual_seed", torch.default_generator.manual_seed)
        patch.setattr(torch._C, "_cuda_getDriverVersion", lambda: 0, raising=False)
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.nn.Module, "_apply", _moved)
        patch.setattr(Tensor, "pin_memory", lambda tensor: gpu.pinned(tensor))
        patch.setattr(inference_mode, "__enter__", enter)
        lifting, exact = (
            torch._C._only_lift_cpu_tensors(),
            torch.are_deterministic_algorithms_enabled(),
        )
        torch._C._set_only_lift_cpu_tensors(True)
        torch._C._ensureCUDADeviceGuardSet()
        try:
            with gpu:
                yield gpu
        finally:
            torch._C._set_only_lift_cpu_tensors(lifting)
            torch.use_deterministic_algorithms(exact)


def _leaves(nodes: Sequence[Any]) -> Iterator[Tensor]:
    """Yield the leaves of a graph of autograd."""
    seen, todo = set(), [*nodes]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        todo += [above for above, _ in node.next_functions]


def _moved(module: Any, change: Any, recurse: bool = True) -> Any:
    """Return a module with new parameters: `Module._apply` puts new data into the old ones."""
    for child in module.children() if recurse else ():
        child._apply(change)
    for name, own in module._parameters.items():
        if own is None:
            continue
        with torch.no_grad():
            changed = change(own)
        if changed is not own:
            module._parameters[name] = torch.nn.Parameter(changed, own.requires_grad)
    for name, own in module._buffers.items():
        module._buffers[name] = None if own is None else change(own)
    return module
