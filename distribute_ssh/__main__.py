"""`python -m distribute_ssh`: the same as `distribute`."""

import sys

from distribute_ssh.cli import main

if __name__ == "__main__":
    sys.exit(main())
