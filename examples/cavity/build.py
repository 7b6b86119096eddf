"""Compiles the solver into the working directory; runs once on each machine, before the first job."""

import os
import shutil
import subprocess
import sys
import tempfile

# -O3 vectorises the elimination, which halves its time here; no -march, so that the program runs on any machine
# of this kind, also on one that gets a copy of this directory.
FLAGS = ["-std=c99", "-O3"]


def succeeds(*command, **how):
    return subprocess.run(command, check=False, **how).returncode == 0


def main():
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    compiler = next(filter(shutil.which, names), None)
    if compiler is None:
        sys.exit(f"no C compiler (looked for {', '.join(names)}); on Debian, Ubuntu: apt-get install gcc libc6-dev")

    # Without OpenMP the solver is the same, on one core: not every compiler has it.
    compile_it = [compiler, *FLAGS, "initial_files/cavity.c", "-o", "cavity", "-lm"]
    threaded = succeeds(*compile_it, "-fopenmp", stderr=subprocess.DEVNULL)
    if not threaded and not succeeds(*compile_it):
        sys.exit(f"{compiler} could not compile cavity.c")

    # A job should not be the first to find out that the program does not start.
    with tempfile.TemporaryDirectory() as folder:
        if not succeeds("./cavity", "100", "16", "1", folder, stdout=subprocess.DEVNULL):
            sys.exit("cavity was compiled but does not run on this machine")
    print("cavity compiled by", compiler, "for several cores" if threaded else "for one core")


if __name__ == "__main__":
    main()
