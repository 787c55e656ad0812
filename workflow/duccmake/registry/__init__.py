"""The registry client: polls, downloads, pushes (OCI distribution-spec 1.1)."""

from .answers import matching
from .client import Client
from .retry import RegistryLeftAlone
from .settings import RegistrySettings

__all__ = ["Client", "RegistryLeftAlone", "RegistrySettings", "matching"]
