"""Nouns: what a jobs file, an inventory, a job and every path are. No I/O but reading the two YAML files."""
