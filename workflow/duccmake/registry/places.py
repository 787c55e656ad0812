"""All places that images come from: registries, layouts, archives."""

from __future__ import annotations

from ..oci.reference import DOCKER_ARCHIVE, OCI_ARCHIVE, OCI_LAYOUT, Reference
from .images import Images
from .local.docker_archive import DockerArchives
from .local.oci_layout import OciLayouts
from .local.tarball import opened_tarball


class Places:
    """The registries and, for references to local files, what reads these."""

    def __init__(self, registries: Images) -> None:
        self._registries = registries
        self._local: dict[str, Images] = {
            OCI_LAYOUT: OciLayouts(),
            OCI_ARCHIVE: OciLayouts(opened_tarball),
            DOCKER_ARCHIVE: DockerArchives(),
        }

    def of(self, reference: Reference) -> Images:
        """Where the reference's image comes from."""
        return self._local[reference.scheme] if reference.is_local else self._registries
