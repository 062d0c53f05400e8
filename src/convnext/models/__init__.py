"""Networks: one file each, with its table of variants."""
