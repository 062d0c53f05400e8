"""Native inference on CPUs: one call of compiled code for a whole network.

- `kernel_sets.py`: the sets of kernels and how each wants its matrices;
- `building.py`, `library.py`: compile the sources in `native/`, find and load the result;
- `features.py`: which set runs on this CPU, and why;
- `plan.py`, `packing.py`: which weights a network has, and their packed form;
- `reference.py`: the same computation in plain PyTorch, the specification and the last resort;
- `fused.py`: the registered operator.
"""
