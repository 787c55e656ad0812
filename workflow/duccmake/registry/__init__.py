"""The registry client: polls, downloads, pushes (OCI distribution-spec 1.1)."""
