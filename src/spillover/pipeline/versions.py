"""What a run was made with, for `run.json`: versions, code digest, threads, dtype."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import spillover
from spillover.records import Runtime, digest

RECORDED = ("spillover", "torch", "transformers", "peft", "tokenizers", "numpy", "scipy", "pyarrow", "openai")


def set_threads(threads: int) -> None:
    """So many for all that torch computes in this process."""
    import torch

    torch.set_num_threads(threads)


def versions(threads: int, runtime: Runtime | None = None) -> dict[str, Any]:
    """Set torch's threads and return everything about this installation that can change a number."""
    import torch

    set_threads(threads)
    return {
        "python": platform.python_version(),
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        **{name: metadata.version(name) for name in RECORDED},
        "code": code_digest(),
        "threads": torch.get_num_threads(),
        "dtype": (runtime or Runtime()).dtype,
        **({"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda} if runtime is not None and runtime.device == "cuda" else {}),
    }


def code_digest() -> str:
    """sha256 over the package's own Python files, by relative path."""
    root = Path(spillover.__file__).parent
    return digest([[str(p.relative_to(root)), digest(p.read_bytes())] for p in sorted(root.rglob("*.py"))])[:16]
