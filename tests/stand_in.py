"""A device of torch's PrivateUse1 kind, as NPUs have, whose memory is the host's and whose operations are the CPU's.

``register()`` makes it for the whole process, for good: what uses it runs in a process of its own. Tensors are computed
with; their storages are not copied, as deepcopy and torch.save would.
"""

import ctypes
import functools

import torch
from torch.utils import _pytree as pytree
from torch.utils import backend_registration, dlpack

NAME = "npu"
_CPU, _EXTERNAL = 1, 12  # kDLCPU and kDLExtDev, the numbers of DLPack


def _gradients_of_convolution(grad, x, weight, *options):
    return torch.ops.aten.convolution_backward(grad, x, weight, [weight.shape[0]], *options)


_BY_ANOTHER_NAME = {  # operations that a device has to bring, and what they are on the CPU
    "aten::_copy_from": lambda source, target, blocking=False: target.copy_(source),
    "aten::convolution_overrideable": torch.ops.aten.convolution,
    "aten::convolution_backward_overrideable": _gradients_of_convolution,
}


class _Device(backend_registration._DummyBackendModule):
    """What torch asks the module of a device."""

    def get_amp_supported_dtype(self):
        return [torch.float16, torch.bfloat16]


def register():
    """From now on ``tensor.to("npu")`` works. Returns the names of the operations, which fill as they run there."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Device())
    ran = []

    def fallback(op, *args, **kwargs):
        schema = op._schema
        ran.append(schema.name)
        given = {}  # id of a tensor on the CPU -> that tensor, and the device's tensor over the same memory

        def cpu(value):
            if isinstance(value, torch.Tensor) and value.device.type == NAME:
                alias = _over(value, _CPU) if value.numel() else torch.empty_like(value, device="cpu")
                given[id(alias)] = (alias, value)
                return alias
            return torch.device("cpu") if isinstance(value, torch.device) else value

        def npu(value):
            if not isinstance(value, torch.Tensor):
                return value
            if id(value) not in given:
                return _over(value, _EXTERNAL)
            ours = given[id(value)][1]
            if ours.shape != value.shape:  # an empty ``out`` to which the operation gave a size
                ours.data = _over(value, _EXTERNAL)
            return ours

        args = [
            torch.tensor(value) if isinstance(value, int | float) and str(wanted.type) == "Tensor" else value
            for value, wanted in zip(args, schema.arguments, strict=False)
        ]
        args, kwargs = pytree.tree_map(cpu, (args, kwargs))
        return pytree.tree_map(npu, _BY_ANOTHER_NAME.get(schema.name, op)(*args, **kwargs))

    for_all, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    for_all.fallback(fallback, "PrivateUse1")
    for_all.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in _BY_ANOTHER_NAME:
        op = getattr(torch.ops.aten, name.removeprefix("aten::")).default
        aten.impl(op, functools.partial(fallback, op), "PrivateUse1")
    register.libraries = (for_all, aten)  # what they hold is unregistered when they go
    return ran


def _over(tensor, kind):
    """A tensor on a kind of device, over the memory of one on another: DLPack with the kind changed."""
    capsule = dlpack.to_dlpack(tensor)
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    after_data = pointer(capsule, b"dltensor") + ctypes.sizeof(ctypes.c_void_p)
    ctypes.c_int32.from_address(after_data).value = kind
    with torch.inference_mode(False):  # where a view of a parameter is no inference tensor either
        return torch._C._from_dlpack(capsule)
