"""Notifications of registries, heard over HTTP and left in a queue for the watcher."""
