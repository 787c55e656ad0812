"""The registry client: polls, downloads, pushes (OCI distribution-spec 1.1).

The package itself imports nothing: most jobs want `settings` alone.
"""
