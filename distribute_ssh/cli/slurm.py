"""`slurm`: a batch as a folder that a Slurm cluster can run without us."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from distribute_ssh.cli.app import App
from distribute_ssh.cli.group import Here
from distribute_ssh.errors import UsageError
from distribute_ssh.views.document import document
from distribute_ssh.views.text import count, safe

if TYPE_CHECKING:
    from distribute_ssh.slurmscript import Cluster


@click.command(cls=Here)
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT")
@click.argument("jobs", type=click.Path(path_type=Path), metavar="JOBS")
@click.option("--cluster-username", metavar="USER", help="The account there.")
@click.option("--cluster-address", metavar="HOST", help="The login machine.")
@click.option("--cluster-upload-destination", metavar="FOLDER", help="Where the folder is sent to, there.")
@click.option(
    "--runtime",
    type=click.Choice(["apptainer", "singularity"]),
    default="apptainer",
    show_default=True,
    help="What runs an image there.",
)
@click.option("--module", "modules", metavar="NAMES", help="Loaded first; none: nothing. Images: the runtime's name.")
@click.option("--build", "place", type=click.Choice(["job", "login"]), default="job", help="Where it is built (job).")
@click.option("--array", is_flag=True, help="Submit jobs of which Slurm is told the same as arrays.")
@click.pass_obj
def slurm(
    app: App,
    out: Path,
    jobs: Path,
    cluster_username: str | None,
    cluster_address: str | None,
    cluster_upload_destination: str | None,
    runtime: str,
    modules: str | None,
    place: str,
    array: bool,
) -> None:
    """Write a folder that runs a batch on a Slurm cluster: the jobs' scripts and inputs, and what submits them.

    Again, it brings the folder to what the jobs file says now. Nothing is sent or submitted.
    """
    from distribute_ssh import slurmtree
    from distribute_ssh.cli.run import read_jobs
    from distribute_ssh.slurmscript import SCHEDULE, UPLOAD, Choices, doubts

    cluster = _cluster(cluster_username, cluster_address, cluster_upload_destination)
    spec = read_jobs(app, jobs)
    choices = Choices(
        runtime="singularity" if runtime == "singularity" else "apptainer",
        modules=None if modules is None else () if modules == "none" else tuple(modules.split()),
        build_at_login=place == "login",
        array=array,
        cluster=cluster,
    )
    written = slurmtree.write(out, spec, choices)
    for doubt in doubts(spec):
        app.warn(f"distribute: {doubt}")
    content = {
        "folder": str(out.absolute()),
        "batch": spec.name,
        "jobs": [job.name for job in spec.jobs],
        **asdict(written),
    }
    said = f"{count(len(spec.jobs), 'job')} of {spec.name}, {count(written.changed, 'file')} written"
    app.answer(document(slurm=content), lambda: f"{safe(str(out))}: {said}\n", [str(out)])
    sends = f"bash {safe(str(out / UPLOAD))}, then " if cluster else ""
    app.say(f"next: {sends}in that folder, on the cluster: bash {SCHEDULE}")


def _cluster(user: str | None, address: str | None, destination: str | None) -> Cluster | None:
    from distribute_ssh.slurmscript import Cluster

    if user and address and destination:
        try:
            return Cluster(user, address, destination)
        except ValueError as error:
            raise UsageError(f"no cluster: {error}") from None
    if user or address or destination:
        raise UsageError(
            "the three --cluster-... options belong together: account, machine and folder to send to",
            hint="give all of them, or none: then the folder is written and nothing that sends it",
        )
    return None
