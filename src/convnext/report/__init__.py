"""The self-contained HTML report of a run or an evaluation."""
