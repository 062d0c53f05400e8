"""Seconds until the command line answers, and of `import convnext` beyond torch."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

COMMANDS = {
    "convnext --help": [str(Path(sys.executable).with_name("convnext")), "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import torch, convnext": [sys.executable, "-c", "import torch, convnext"],
    "import torch, convnext; convnext.create_model": [
        sys.executable,
        "-c",
        "import torch, convnext; convnext.create_model",
    ],
}


def times(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Median wall time of each command, the commands in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(arguments.rounds):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - start)
    rows = [{"command": n, "seconds": round(statistics.median(s), 3)} for n, s in seconds.items()]
    print(json.dumps(rows, indent=1))
    return rows
