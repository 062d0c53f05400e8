"""The command line: `convnext COMMAND ...`. The only room that knows the CLI library.

Exit status: 0 done, 1 something was found or left out (doctor: errors in the data; predict: files
that could not be read), 2 a mistake that is named on stderr, 130 and 143 stopped by a signal.
"""

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from convnext import __version__
from convnext.models.registry import unknown

__all__ = ["main", "program"]

MISTAKE, INTERRUPTED = 2, 130

# command: what it does, and the module whose function of the same name runs it
COMMANDS = {
    "train": ("train a classifier, detector or segmentation network, or pre-train", "train"),
    "evaluate": ("score a network on images with labels", "use"),
    "predict": ("classify images, find objects in them, or classify their pixels", "use"),
    "recipes": ("list the recipes", "tables"),
    "models": ("list the networks: size, cost, accuracy", "tables"),
    "weights": ("list, inspect and convert weights", "weights"),
    "doctor": ("check a folder of images before training, and name the engine", "use"),
    "bench": ("measure what networks cost and how fast they are", "bench"),
    "analyse": ("look inside networks: receptive field, features", "analyse"),
    "reconstruct": ("draw what a masked autoencoder paints", "reconstruct"),
    "roadmap": ("train the steps from ResNet to ConvNeXt", "study"),
    "ablate": ("train variants of a network and compare them", "study"),
    "export": ("write a detector or segmentation network as a graph", "export"),
    "demo": ("train on real photographs in a few minutes and report", "use"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Before torch is imported: threads that wait shall sleep, not spin. With anything else running
    # (the loader, a second job) spinning made training five times slower; alone it gains a tenth.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for stream in (sys.stdout, sys.stderr):  # a file name may hold anything
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _dispatch(arguments)
    except SystemExit as stop:  # from the parser (help, errors) or a signal
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else MISTAKE
    except KeyboardInterrupt:
        print("convnext: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as in `convnext models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if os.environ.get("CONVNEXT_DEBUG") == "1":
            raise
        print(f"convnext: {_message(error)}", file=sys.stderr)
        return MISTAKE
    except (RuntimeError, MemoryError) as error:
        from convnext.train.memory import is_out_of_memory

        if os.environ.get("CONVNEXT_DEBUG") == "1" or not is_out_of_memory(error):
            raise
        print(
            "convnext: out of memory; use fewer images at a time, smaller images or a smaller "
            "network",
            file=sys.stderr,
        )
        return MISTAKE


def program() -> NoReturn:
    """What the shell starts: run one command and end the process with its status."""
    status = main()
    if int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_STEP_NUM_TASKS", "1"))) > 1:
        # A thread of gloo may still hold a tensor; if it gives it back while the interpreter is
        # being taken down, the process aborts after all is done, and the launcher reports failure.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _message(error: Exception) -> str:
    """One readable line, also for the errors of the operating system."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        return where + error.strerror
    return str(error) or type(error).__name__


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if arguments else MISTAKE
    if arguments[0] in ("-V", "--version"):
        print(f"convnext {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    run = getattr(import_module(f"convnext.cli.{COMMANDS[name][1]}"), name)
    return int(run(rest))


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{text}" for name, (text, _) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: convnext COMMAND [OPTIONS]",
            "",
            "ConvNeXt: train, evaluate and use classifiers, detectors and segmentation networks.",
            "",
            *lines,
            "",
            "convnext COMMAND --help lists the options of a command.",
            "CONVNEXT_DEBUG=1 shows the traceback of an error.",
        ]
    )
