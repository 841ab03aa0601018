"""The machine on which something is measured, and the versions of relevant packages."""

import os
import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch", "torchvision", "mlflow", "numpy", "pillow", "scipy", "lightning", "torchmetrics", "netcal",
    "segmentation-models-pytorch",
)  # fmt: skip
FEATURES = ("avx2", "avx512", "avx512_bf16", "amx")
"""CPU features that matter for speed here, as prefixes of Linux's flags."""


def machine() -> dict[str, Any]:
    """This machine; unknown fields are left out."""
    about = _text("/proc/cpuinfo")
    flags = set(_field(about, "flags", ":").split())
    memory = _field(_text("/proc/meminfo"), "MemTotal", ":").split()
    found = {
        "cpu": _field(about, "model name", ":") or platform.processor(),
        "cores": os.cpu_count(),
        "features": [name for name in FEATURES if any(flag.startswith(name) for flag in flags)],
        "memory_gb": round(int(memory[0]) / 2**20) if memory else None,
        "os": _field(_text("/etc/os-release"), "PRETTY_NAME", "=").strip('"') or platform.system(),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
    }
    return {name: value for name, value in found.items() if value}


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def described(about: Mapping[str, Any]) -> str:
    """A machine on one line."""
    features = f" ({', '.join(about['features'])})" if about.get("features") else ""
    parts = [f"{about.get('cpu', 'unknown CPU')}{features}", f"{about['cores']} cores"]
    parts += [f"{about['memory_gb']} GB"] if "memory_gb" in about else []
    return ", ".join([*parts, about["os"], about["kernel"]])


def _text(file: str) -> str:
    with suppress(OSError):
        return Path(file).read_text()
    return ""


def _field(text: str, name: str, sign: str) -> str:
    found = re.search(rf"^{name}\s*{sign}\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else ""
