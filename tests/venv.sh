#!/bin/sh
# Makes the virtual environment of this checkout and installs the package there:  sh tests/venv.sh [EXTRA]
#
# EXTRA is one of the extras of pyproject.toml (dev). The environment is .venv at the top, or $DISTRIBUTE_VENV. Does
# nothing where it is there and current. Prints the environment's path on stdout, progress on stderr.
# Works without root, and where pip is forbidden outside virtual environments (PEP 668: Debian 12, Ubuntu).
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
extra=${1:-}
venv=${DISTRIBUTE_VENV:-$root/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac

say() { printf 'distribute: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Settings of the caller's own Python would lead pip and venv astray.
unset PYTHONHOME PYTHONPATH
export PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_DISABLE_PIP_VERSION_CHECK=1

# The places are part of it: a copied or moved checkout must not run the code of the old one.
current="$(cksum <"$root/pyproject.toml") $root $venv"
is_current() { [ -x "$venv/bin/python" ] && [ "$(cat "$venv/installed-$1" 2>/dev/null)" = "$current" ]; }

find_python() {
    for name in python3 python3.15 python3.14 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$name"
            return
        fi
    done
    die "Python 3.11 or newer is needed; type: sudo apt-get install python3.11 python3.11-venv"
}

# Debian ships venv without ensurepip, and it then leaves an environment without pip behind.
can_make() { "$python" -c 'import venv; from ensurepip import bootstrap' 2>/dev/null; }

make_venv() {
    python=$(find_python) || exit 1
    if ! can_make && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing $python-venv"
        {
            apt-get install -y "$python-venv" || { apt-get update && apt-get install -y "$python-venv"; }
        } >/dev/null 2>&1 </dev/null || say "apt-get could not install $python-venv"
    fi
    say "making $venv"
    anew=
    [ ! -e "$venv/pyvenv.cfg" ] || anew=--clear
    if can_make; then
        "$python" -m venv $anew -- "$venv" >&2 || die "could not make $venv"
    elif command -v virtualenv >/dev/null; then
        virtualenv -q $anew -p "$python" -- "$venv" >&2 || die "could not make $venv"
    else
        die "this Python cannot make virtual environments; type: sudo apt-get install $python-venv"
    fi
}

# Not so after an upgrade of the system's Python, nor in an environment made without pip.
has_pip() { "$venv/bin/python" -m pip --version || "$venv/bin/python" -m ensurepip; } >/dev/null 2>&1

# One environment serves everybody: with the extra dev it also serves those who asked for none.
if ! is_current "${extra:-plain}" && { [ -n "$extra" ] || ! is_current dev; }; then
    has_pip || make_venv
    say "installing into $venv"
    "$venv/bin/python" -m pip install -q -e "$root${extra:+[$extra]}" >&2 ||
        die "pip could not install what is needed; its own message is above"
    printf '%s\n' "$current" >"$venv/installed-${extra:-plain}"
fi
printf '%s\n' "$venv"
