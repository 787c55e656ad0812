"""Looking at what earlier versions published, once each: what has to be made anew or refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..fs.line_memory import LineMemory
from ..oci.reference import Digest
from ..repository.audit import Audit, Fault, Finding
from ..repository.model import ImageRecord
from ..repository.protocol import Repository
from ..workspace.results import content_store, memory
from .model import Departure


class Auditor:
    """Audits the images of a repository that nobody has held to what they say yet.

    ``results/REPOSITORY/audited.jsonl`` has the manifest of each that was found right.
    ``refused`` are images that leave, as `Plan.refused` has them.
    """

    def __init__(self, repository: Repository) -> None:
        self.refused: list[Departure] = []
        self._repository = repository
        self._audit = Audit(repository.view)
        self._memory = LineMemory(memory(repository.name, "audited"))

    def fault(self, record: ImageRecord | None) -> str:
        """What is wrong with an image that is wished for; empty where nothing is.

        It is made anew for it, or refused where it lies.
        """
        if record is None or (finding := self._look(record)) is None:
            return ""
        if finding.fault is Fault.CLAIMS:
            self._refuse(record, finding)
        return finding.why

    def look_at_others(self, names: Iterable[str], wished: Collection[str]) -> None:
        """Audit images that nobody wishes for: those that are wrong leave."""
        for name in names:
            if name in wished or self._memory.get(name) is not None:
                continue
            record = self._repository.description(name)
            if record is not None and (finding := self._look(record)) is not None:
                self._refuse(record, finding)

    @property
    def altered(self) -> frozenset[Digest]:
        """Layers that earlier versions put files of other images into."""
        return self._audit.altered_layers

    def _look(self, record: ImageRecord) -> Finding | None:
        manifest = str(record.manifest)
        if record.verified or self._memory.get(record.name) == manifest:
            return None
        with self._repository.reading():
            configuration = content_store().get(record.config) or b""
            finding = self._audit.find(record, configuration)
        if finding is None:
            self._memory.note(record.name, manifest)
        return finding

    def _refuse(self, record: ImageRecord, finding: Finding) -> None:
        leaves = finding.fault is not Fault.STORE
        manifest = str(record.manifest) if leaves else ""
        departure = Departure(self._repository.name, record.name, manifest, finding.why)
        self.refused.append(departure)
