"""`python -m convnext.cli` is `convnext`."""

from convnext.cli import program

program()
