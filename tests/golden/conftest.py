"""Closed-form weights and images for the golden tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for closed_form
