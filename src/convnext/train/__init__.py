"""Engine, schedules, parameter groups, EMA, checkpoints, parallelism, hooks.

Knows no model and no data set: a task gives the loss, batches give the data.
"""
