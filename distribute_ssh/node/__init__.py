"""Machines: reaching them, asking what they are, and running, watching and ending attempts on them."""
