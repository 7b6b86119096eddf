"""Decisions: pure functions of what is known and of `now`. Nothing here reads a clock, a file or a line."""
