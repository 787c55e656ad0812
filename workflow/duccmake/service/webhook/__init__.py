"""Notifications of registries, heard over HTTP and left in the spool for the watcher."""
