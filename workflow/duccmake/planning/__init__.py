"""Deciding what a run has to do; nothing here changes a repository."""
