"""A real Slurm on machines of a lab: Debian's slurmctld on one, which is the login machine too, slurmd on others.

What they share is the lab's window, as a cluster has its parallel file system. There is no accounting.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.lab.disk import SERVICE
from tests.lab.lab import Lab
from tests.support.wait import wait_for

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")

# Nothing of it needs cgroups, systemd or a database. Where a site waits for minutes, the tests wait for seconds.
_CONFIG = """\
ClusterName=lab
SlurmctldHost={login}
SlurmUser=slurm
AuthType=auth/munge
CredType=cred/munge
StateSaveLocation=/var/lib/slurm/ctld
SlurmdSpoolDir=/var/lib/slurm/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurmctld.log
SlurmdLogFile=/var/log/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=200000,batch_sched_delay=0,bf_interval=1
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=10
KillWait=3
OverTimeLimit=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
NodeName={nodes} CPUs={cpus} State=UNKNOWN
PartitionName=short Nodes=ALL Default=YES MaxTime=10 State=UP
PartitionName=long Nodes=ALL MaxTime=INFINITE State=UP
PartitionName=closed Nodes=ALL State=DOWN
"""


def missing() -> str | None:
    """Why there can be no Slurm here, or None."""
    lacking = [each for each in PROGRAMS if shutil.which(each, path="/usr/sbin:/usr/bin:/sbin:/bin") is None]
    return f"lacks {', '.join(lacking)} (slurm-wlm, munge)" if lacking else None


class Slurm:
    """A cluster of some of a lab's machines: `login` and `nodes`; it ends with them."""

    def __init__(self, lab: Lab, login: str, nodes: Sequence[str], cpus: int = 8) -> None:
        self.lab = lab
        self.login = login
        self.nodes = tuple(nodes)
        self.shared = Path(lab.window) / "shared"
        self.shared.mkdir()
        self.shared.chmod(0o1777)
        config = _CONFIG.format(login=login, nodes=",".join(nodes), cpus=cpus)
        for name in (login, *nodes):
            self._write(name, "/etc/slurm/slurm.conf", config)
            # Named, so that slurmd looks for none of them; nothing above uses it.
            self._write(name, "/etc/slurm/cgroup.conf", "CgroupPlugin=cgroup/v1\n")
            self._write(name, "/etc/munge/munge.key", "k" * 128, mode=0o400, owner="munge")
            self._do(name, "install -d -o slurm -g slurm /var/lib/slurm /var/lib/slurm/ctld /var/lib/slurm/slurmd")
        self._start_munge(login)
        self.start_controller()
        for name in nodes:
            self.start_machine(name)
        self.wait_up()

    # --- what can happen to it ---

    def start_controller(self) -> None:
        """Start slurmctld."""
        self._do(self.login, "slurmctld")

    def stop_controller(self) -> None:
        """Stop slurmctld: nobody answers then, and what runs goes on.

        Not with -9: it would forget the last seconds, and give numbers of jobs that run to others.
        """
        pid = self.lab.exec(self.login, ["cat", "/run/slurmctld.pid"]).stdout.strip()
        self._do(self.login, f"kill {pid}")
        gone = ["sh", "-c", f"! kill -0 {pid}"]
        wait_for(lambda: self.lab.exec(self.login, gone, check=False).returncode == 0, "slurmctld has ended", 30)

    def start_machine(self, name: str) -> None:
        """Start what a node of it runs, when the machine was switched on."""
        self._start_munge(name)
        self._do(name, "slurmd")

    def _start_munge(self, name: str) -> None:
        self._do(name, "install -d -o munge -g munge /run/munge /var/lib/munge /var/log/munge")
        self._do(name, "setpriv --reuid munge --regid munge --clear-groups munged")

    def wait_up(self) -> None:
        """Wait until all nodes take jobs."""
        wait_for(lambda: "".join(self.states()) == "idle" * len(self.nodes), "all nodes of Slurm are idle", 30)

    # --- what is ---

    def states(self) -> list[str]:
        """The states of its nodes."""
        return self.ask("sinfo", "-h", "-N", "-p", "long", "-o", "%t").split()

    def jobs(self, *fields: str) -> list[list[str]]:
        """All jobs it knows, those that ended too, with these fields of squeue; a row for each task of an array."""
        text = self.ask("squeue", "-h", "-r", "-a", "--states=all", "-o", "|".join(f"%{each}" for each in fields))
        return [line.split("|") for line in text.splitlines()]

    def ask(self, *argv: str) -> str:
        """What a command says to the account that jobs run as."""
        return self.lab.exec(self.login, argv, SERVICE).stdout

    def admin(self, *argv: str) -> str:
        """What `scontrol` says to the administrator."""
        return self.lab.exec(self.login, ["scontrol", *argv]).stdout

    def log(self) -> str:
        """The last that slurmctld and the slurmds wrote."""
        said = [self.lab.exec(self.login, ["tail", "-n", "40", "/var/log/slurmctld.log"], check=False).stdout]
        for name in self.nodes:
            said.append(self.lab.exec(name, ["tail", "-n", "20", "/var/log/slurmd.log"], check=False).stdout)
        return "\n".join(said)

    def _write(self, name: str, path: str, text: str, mode: int = 0o644, owner: str = "root") -> None:
        script = 'mkdir -p "$(dirname "$0")" && rm -f "$0" && cat > "$0" && chown "$2" "$0" && chmod "$1" "$0"'
        self.lab.exec(name, ["sh", "-c", script, path, f"{mode:o}", owner], text=text)

    def _do(self, name: str, command: str) -> None:
        # What goes on in the background must not hold the pipe on which we read what it says.
        said = f"/tmp/{command.split()[0]}.said"
        self.lab.exec(name, ["sh", "-c", f"{command} < /dev/null > {said} 2>&1 || {{ cat {said} >&2; exit 1; }}"])
