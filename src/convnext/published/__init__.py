"""Numbers that the papers print, each with its table: the only place where they stand.

Accuracies of published checkpoints stand in the catalogue, beside the files that reach them.
"""
