"""Moves bytes from origins to the disk in verified, resumable pieces."""
