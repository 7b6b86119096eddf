"""Nothing has to be compiled for this study; what would be, is compiled here, once on each machine."""

import platform

print("Python", platform.python_version())
