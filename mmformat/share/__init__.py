"""Moves to legacy and media; empty soon."""
