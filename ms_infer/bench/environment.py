"""What a number was measured on: device, versions, load."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ms_infer._version import __version__

LIBRARIES = ("torch", "triton", "openvino", "tensorrt", "tensorrt-rtx", "numpy")
GPU_FIELDS = ("name", "driver_version", "clocks.sm", "clocks.max.sm", "power.limit", "temperature.gpu")
THREAD_SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MS_INFER_NO_CUDA_GRAPH")


def environment() -> dict[str, Any]:
    """Plain values: machine, CPU, load, GPUs, versions, settings. Nothing that names a person or a path."""
    return {
        "ms_infer": __version__,
        "commit": _command("git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpus": gpus(),
        "versions": {name: found for name in LIBRARIES if (found := _version(name))},
        "settings": {name: os.environ[name] for name in THREAD_SETTINGS if name in os.environ},
    }


def gpus() -> list[dict[str, str]]:
    """One entry a GPU, as nvidia-smi tells; empty without one."""
    lines = _command("nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader")
    return [
        dict(zip(GPU_FIELDS, (part.strip() for part in line.split(",")), strict=False)) for line in lines.splitlines()
    ]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    return names[0].strip() if names else platform.processor()


def _command(*arguments: str) -> str:
    """Standard output of a command, empty when it is absent or fails."""
    if shutil.which(arguments[0]) is None:
        return ""
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=20)
    return done.stdout.strip() if done.returncode == 0 else ""
