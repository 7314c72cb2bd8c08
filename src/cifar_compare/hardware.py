"""What this machine computes with."""

import os
import platform
from pathlib import Path

import keras


def hardware():
    """What this runs on, in a line: accelerators, then the number of processor cores and their kind."""
    beside = f"{' and '.join(accelerators())} on {keras.backend.backend()}, " if accelerators() else ""
    names = [line.partition(":")[2].strip() for line in _processor() if line.startswith("model name")]
    widest = next((flag for flag in ("avx512f", "avx2") if flag in " ".join(_processor()).split()), "")
    return f"{beside}{os.cpu_count()} cores, {names[0] if names else platform.processor()} {widest}".strip()


def accelerators():
    """The GPUs and TPUs that Keras's backend sees, list of str."""
    return [device for device in keras.distribution.list_devices() if not device.startswith("cpu")]


def has_bfloat16():
    """Whether this machine multiplies in bfloat16 by instructions of its own."""
    return bool(accelerators()) or bool({"avx512_bf16", "amx_bf16", "bf16"} & set(" ".join(_processor()).split()))


def _processor():
    path = Path("/proc/cpuinfo")  # of Linux; elsewhere nothing is known of the processor
    return path.read_text().splitlines() if path.exists() else []
