"""Triton kernels for GPUs, each reached only through its operation in `convnext.ops`."""
