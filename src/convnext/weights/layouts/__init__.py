"""Checkpoint layouts: one file and one two-way key table for each."""
