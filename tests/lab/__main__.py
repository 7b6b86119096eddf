"""A lab to play with: `python -m tests.lab up 4`, as root; `--help` shows what can be done to it."""

from __future__ import annotations

import argparse
import os
import sys

from tests.lab.lab import CHECKOUT, Lab, attend, labs
from tests.lab.login import console
from tests.lab.machine import missing

VERBS = {
    "cut": "pull its network cable",
    "mend": "put the cable back in",
    "crash": "pull its power cable",
    "start": "switch it on after a crash",
    "reboot": "press its reset button",
    "fill": "leave no free byte on its /var/tmp",
    "unfill": "give it its room back",
}


def main() -> int:
    """Parse, and do it."""
    given = _parser().parse_args()
    if why := missing():
        print(f"no lab: this computer {why}", file=sys.stderr)
        return 1
    match given.verb:
        case "up":
            _up(given.count)
        case "down":
            for lab in labs(given.lab):
                if lab.claim.take():  # else it belongs to a test that runs
                    lab.down()
        case "attend":
            attend(given.number)
        case "list":
            for lab in labs(given.lab):
                for name, machine in lab.machines.items():
                    print(lab.claim.number, name, machine.address, "up" if machine.is_up else "down")
        case _:
            return _do(_find(given.lab, given.node), given)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument("--lab", type=int, metavar="N", help="which one, where there are several")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    up = verbs.add_parser("up", help="bring up a lab")
    up.add_argument("count", type=int, nargs="?", default=3)
    verbs.add_parser("down", help="take down every lab but those of tests that run")
    verbs.add_parser("list", help="show what there is")
    verbs.add_parser("attend").add_argument("number", type=int)  # what `Lab.up` starts beside a lab
    for verb, what in VERBS.items():
        verbs.add_parser(verb, help=what).add_argument("node")
    slow = verbs.add_parser("slow", help="let all it sends and gets take longer")
    slow.add_argument("node")
    slow.add_argument("milliseconds", type=float)
    login = verbs.add_parser("login", help="sit down at it and log in")
    login.add_argument("node")
    login.add_argument("user", nargs="?", default="ana")
    execute = verbs.add_parser("exec", help="run a program in it")
    execute.add_argument("--user", default="root")
    execute.add_argument("node")
    execute.add_argument("argv", nargs=argparse.REMAINDER)
    return parser


def _up(count: int) -> None:
    lab = Lab.up(count, keep=True)
    access = lab.access
    print(f"""\
{", ".join(lab.machines)} are up. In the shell where you want to use them:

    export DISTRIBUTE_INVENTORY={access.inventory}
    export DISTRIBUTE_HOME={access.home}
    distribute nodes probe

By hand:                ssh -F {access.ssh_config} node1
Break something:        python -m tests.lab cut node1      (--help shows more)
Take all of it down:    python -m tests.lab down""")


def _find(number: int | None, node: str) -> Lab:
    found = labs(number)
    if len(found) != 1:
        sys.exit("there is no lab: python -m tests.lab up" if not found else "there are several labs: say --lab N")
    if node not in found[0].machines:
        sys.exit(f"there is no {node}: {', '.join(found[0].machines)}")
    return found[0]


def _do(lab: Lab, given: argparse.Namespace) -> int:
    if given.verb == "slow":
        lab.slow(given.node, given.milliseconds)
    elif given.verb in VERBS:
        getattr(lab, given.verb)(given.node)
    else:
        machine = lab.machines[given.node]
        argv = (
            machine.command(console(given.user)) if given.verb == "login" else machine.command(given.argv, given.user)
        )
        os.execvp(argv[0], argv)
    return 0


if __name__ == "__main__":
    os.chdir(CHECKOUT)
    sys.exit(main())
