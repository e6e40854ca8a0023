"""What known GPUs have: for model FLOPs utilisation and for the estimate."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        flops: dense bf16 peak, per second, by its data sheet.
        memory_gib: that a process can take, GiB.
    """

    flops: float
    memory_gib: float


DEVICES = {
    "H200": Device(989e12, 139.0),
    "H100": Device(989e12, 79.0),
    "A100": Device(312e12, 79.0),
    "L40S": Device(362e12, 44.0),
    "RTX 4090": Device(165e12, 23.5),
    "RTX 3090": Device(71e12, 23.5),
}
"""By a part of the name that torch.cuda.get_device_name gives."""


def known_device(name: str) -> Device | None:
    """The device whose name contains one of `DEVICES`; None for others."""
    return next((d for part, d in DEVICES.items() if part in name), None)
