"""The working directory: ``results/``, the lock of those who run, the event log."""
