"""Runs on a node, before the first call there: can this Python run what another one pickled?"""

import sys

here = f"{sys.version_info[0]}.{sys.version_info[1]}"
with open("initial_files/python", encoding="ascii") as file:
    there = file.read().strip()
if here != there:
    # The code of a function is bytecode, which each minor version has its own.
    sys.exit(f"python3 is {here} on this node, and the functions come from Python {there}")
print(f"Python {sys.version}")
