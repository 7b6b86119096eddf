"""`distribute`: a lab's workstations as one compute pool, over nothing but ssh."""

__version__ = "0.1.0"
