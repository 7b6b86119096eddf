#!/bin/sh
# Checks this checkout:  sh tests/run.sh [--complete] [ARGUMENTS FOR PYTEST]
#
# Makes the environment, installs what the tests need and root allows, looks at style and types, and runs the tests.
# What cannot run on this machine is left out and named; with --complete that is a failure.
set -eu

cd -- "$(dirname -- "$0")/.."
if [ "${1:-}" = --complete ]; then
    shift
    DISTRIBUTE_TESTS_COMPLETE=1; export DISTRIBUTE_TESTS_COMPLETE
fi

say() { printf 'tests: %s\n' "$*"; }
lacks() { ! PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null; }

# --- what they need of the system: program and Debian package ---

missing=
packages=
for each in sshd:openssh-server ssh:openssh-client gcc:gcc fish:fish tcsh:tcsh busybox:busybox debootstrap:debootstrap \
    slurmctld:slurm-wlm munged:munge; do
    if lacks "${each%:*}"; then
        missing="$missing ${each%:*}"
        packages="$packages ${each#*:}"
    fi
done
if [ ! -e /usr/include/stdlib.h ]; then
    missing="$missing stdlib.h"
    packages="$packages libc6-dev"
fi

install() {
    # The tests start servers of their own: installing one must not open a port on this machine.
    policy=/usr/sbin/policy-rc.d ours=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        ours=$policy
        trap 'rm -f "$ours"' EXIT
    fi
    apt() { DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" </dev/null; }
    # shellcheck disable=SC2086 # names of packages, one word each
    add() { apt install -y --no-install-recommends $packages; }
    { add || { apt update && add; }; } >/dev/null 2>&1 || say "apt-get could not install$packages"
    rm -f "$ours"
    trap - EXIT
}

if [ -n "$packages" ]; then
    if [ "$(id -u)" != 0 ]; then
        say "left out: what needs$missing, because only root can install$packages"
    elif lacks apt-get; then
        say "left out: what needs$missing, because there is no apt-get to install$packages"
    else
        say "installing$packages"
        install
    fi
fi
[ "$(id -u)" = 0 ] || say "left out: what needs root (full disks, accounts with other login shells, other boot ids)"

# --- style and types, then the tests, whose closing line stays the last ---

venv=$(sh tests/venv.sh dev)
failed=0
check() {
    say "$*"
    "$venv/bin/python" -m "$@" || { failed=1; say "FAILED: $1"; }
}
check ruff check --quiet .
check ruff format --check --quiet .
check mypy

# Most tests wait for a process or a line, so that five at once fit on two cores.
again=0
"$venv/bin/python" -m pytest -n 5 --dist worksteal "$@" || again=$?
if [ "$again" = 1 ]; then
    # Machines that run this are slow and shared, and faults are played with real processes. Whoever fails here once and
    # passes alone is named: that is a bug to be found, in the test or in what it tests, but no reason to stop a change.
    say "some failed; those again, alone:"
    again=0
    "$venv/bin/python" -m pytest --last-failed --last-failed-no-failures=none || again=$?
    [ "$again" != 0 ] || say "FLAKY: they passed the second time; find out why (their names are in the first summary)"
fi
[ "$again" = 0 ] || failed=$again
exit "$failed"
