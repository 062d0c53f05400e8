"""`python -m convnext.cli` is `convnext`."""

import sys

from convnext.cli import main

sys.exit(main())
