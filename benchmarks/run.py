"""One runner for all benchmarks: `python benchmarks/run.py NAME`; --help lists the names.

Every comparison is interleaved, in one process if its text does not say otherwise: a round times
each side once, in turn, and the ratio is taken round by round, so that a machine that slows down
slows both sides. The figure is
the median ratio over the rounds; above 1 this package is faster. Results go to
benchmarks/results/NAME.json with device, versions and commit.
"""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent


def environment() -> dict[str, Any]:
    """Device, versions and commit, for the results file."""
    import timm
    import torchvision

    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True
    ).stdout.strip()
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "timm": timm.__version__,
        },
    }


def main() -> None:
    import cpu_inference
    import depthwise
    import detection
    import engine
    import loader
    import masked
    import networks
    import segmentation
    import startup

    benchmarks: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
        "networks": networks.speed,
        "memory": networks.memory,
        "loader": loader.speed,
        "engine": engine.overhead,
        "depthwise": depthwise.compare,
        "masked": masked.compare,
        "detection": detection.compare,
        "segmentation": segmentation.compare,
        "startup": startup.times,
        "cpu_inference": cpu_inference.compare,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark", choices=benchmarks)
    parser.add_argument("--models", nargs="+", default=["convnext_atto", "convnext_tiny"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=[512], help="sides of images, of segmentation"
    )
    parser.add_argument("--phases", nargs="+", default=["inference", "training"])
    parser.add_argument("--modes", nargs="+", default=["eager", "compiled"])
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one side in one round")
    parser.add_argument("--cases", nargs="+", help="of cpu_inference, as convnext_tiny:16")
    parser.add_argument(
        "--precision",
        choices=["fp32", "bf16", "int8"],
        help="of cpu_inference; default: the fastest floating point that the CPU has",
    )
    parser.add_argument("--threads", type=int, default=2, help="of each engine of cpu_inference")
    parser.add_argument("--prototype", type=Path, help="compiled; a further engine")
    parser.add_argument("--data", type=Path, help="class folders, for the loader benchmark")
    parser.add_argument("--name", help="of the results file")
    arguments = parser.parse_args()
    rows = benchmarks[arguments.benchmark](arguments)
    result = {"benchmark": arguments.benchmark, **environment(), "rows": rows}
    path = ROOT / "results" / f"{arguments.name or arguments.benchmark}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {path}, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
