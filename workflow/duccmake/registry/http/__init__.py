"""Requests to registries: connections, credentials, tries and limits."""
