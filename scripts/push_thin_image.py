"""Push the thin image of an image that is published, and keep its manifest."""

import sys
from pathlib import Path

import duccmake.jobs.start  # noqa: F401
from duccmake.errors import RegistryError
from duccmake.fs.files import write_atomically
from duccmake.jobs.job import running
from duccmake.jobs.push_thin_image import push_thin, refusal
from duccmake.oci.reference import Reference
from duccmake.planning.thin_images import note_refusal
from duccmake.registry.client import Client
from duccmake.registry.http.credentials import output_credentials
from duccmake.repository.open import open_repository
from duccmake.workspace.event_log import Action
from duccmake.workspace.reports import Kind, Report, Rule
from duccmake.workspace.results import LIMITS, content_store

log, output, repository, name, *inputs = sys.argv[1:]
with running(Rule.PUSH_THIN_IMAGE, repository, name, log=log, output=output) as job:
    thin = job.plan.thin(repository, name)
    images = [job.plan.image(repository, path) for path in thin.images]
    job.serves(images)
    job.check_inputs(inputs)
    target = Reference.parse(thin.target)
    account = output_credentials(thin.user)
    given = {target.host: account} if account else {}
    with (
        job.events.span(Action.THIN_PUSH, image=name, target=thin.target),
        Client(job.config.registries, limits_directory=LIMITS, credentials=given) as client,
    ):
        try:
            manifest = push_thin(
                thin,
                images,
                open_repository(job.config.repository, repository),
                content_store(),
                client,
            )
        except RegistryError as error:
            note = refusal(target, error, anonymous=not client.has_credentials(target))
            if note is not None and job.config.thin.push == "auto":
                # It answers, and it takes no pushes of whom we are.
                note_refusal(note)
                job.ignorable = True
            raise
    for path in Path(output).parent.glob("*.thin.json"):
        path.unlink()
    write_atomically(Path(output), manifest)
    job.report(Report(job.name, Kind.PUSHED, thin.target))
