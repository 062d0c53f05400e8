"""Parts of two-stage detectors: geometry, assignment, pyramid, proposals, heads, masks."""
