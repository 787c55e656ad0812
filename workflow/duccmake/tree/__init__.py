"""Trees of files: as text (mtree), and on disk, built, copied and compared."""
