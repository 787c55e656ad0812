"""The watcher: runs Snakemake whenever something may have changed, and never twice at a time."""
