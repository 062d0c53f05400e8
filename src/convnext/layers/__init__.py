"""Modules that at least two networks use."""
