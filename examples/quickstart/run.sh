#!/bin/sh
# From a fresh checkout to four finished jobs on this machine:  sh examples/quickstart/run.sh [OPTIONS of distribute run]
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd -P)
venv=$(sh "$root/tests/venv.sh")
[ "$(command -v distribute)" = "$venv/bin/distribute" ] ||
    printf 'the command distribute is %s/bin/distribute\n' "$venv" >&2
exec "$venv/bin/distribute" run "$root/examples/quickstart/jobs.yaml" "$@"
