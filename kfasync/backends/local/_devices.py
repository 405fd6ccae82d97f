"""Which GPUs this machine has."""

from __future__ import annotations

from pathlib import Path

__all__ = ["find_gpus"]

_NVIDIA = Path("/proc/driver/nvidia/gpus")


def find_gpus(setting: str, driver: Path = _NVIDIA) -> tuple[str, ...]:
    """The device names that CUDA_VISIBLE_DEVICES takes.

    Args:
        setting: ``auto`` asks NVIDIA's driver; anything else is a comma-separated list, which may be simulated.
        driver: Where the driver lists its devices.

    Example:
        >>> find_gpus("0,1")
        ('0', '1')
    """
    if setting != "auto":
        return tuple(name.strip() for name in setting.split(",") if name.strip())
    if not driver.is_dir():
        return ()
    return tuple(str(index) for index, _ in enumerate(driver.iterdir()))
