"""Tensor operations, one file each: the definition and the choice of implementation."""
