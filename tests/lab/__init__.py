"""A lab of really separate machines on one computer, for the tests and to play with (`python -m tests.lab`)."""
