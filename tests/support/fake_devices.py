"""Several devices where there is only a CPU: tensors stay there and bear the name of a device.

Within [`FakeDevices`] a tensor's `device` is the name that it was given by `to(...)` or by the call that made it, and
an operation on tensors of several devices is an error, as it would be on real ones.
"""

import torch
from accelerate import dispatch_model
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakIdKeyDictionary


CPU = torch.device("cpu")


class FakeDevices(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.devices = WeakIdKeyDictionary()

    def device_of(self, tensor: torch.Tensor) -> torch.device:
        return self.devices.get(tensor, CPU)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function == torch.Tensor.device.__get__:
            return self.device_of(args[0])
        args, kwargs = list(args), dict(kwargs or {})
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
        # as on real devices, single numbers may come from anywhere
        found = {self.device_of(tensor) for tensor in tensors if tensor.ndim}
        target = CPU if function is torch.Tensor.cpu else None
        if function is torch.Tensor.to:
            found = {self.device_of(args[0])}
            for place, value in enumerate(args[1:], 1):
                if isinstance(value, torch.Tensor):
                    target = self.device_of(value)
                elif isinstance(value, (torch.device, str)):
                    target, args[place] = torch.device(value), CPU
        if kwargs.get("device") is not None:
            target, kwargs["device"] = torch.device(kwargs["device"]), CPU
        if len(found) > 1:
            raise RuntimeError(f"{function.__name__}: tensors on {sorted(map(str, found))}")
        device = target or next(iter(found), CPU)

        def named(value):
            if not isinstance(value, torch.Tensor) or self.device_of(value) == device:
                return value
            if any(value is tensor for tensor in tensors) and not isinstance(value, torch.nn.Parameter):
                value = value.view_as(value)
            self.devices[value] = device
            return value

        return tree_map(named, function(*args, **kwargs))

    def dispatch(self, model, device_map: dict[str, str], main_device: str):
        """[`accelerate.dispatch_model`] on devices that do not exist; within the mode."""
        model = dispatch_model(
            model, device_map, main_device, skip_keys=model._skip_keys_device_placement, force_hooks=True
        )
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self.devices[tensor] = torch.device(
                next(device for part, device in device_map.items() if f"{name}.".startswith(f"{part}.") or not part)
            )
        return model
