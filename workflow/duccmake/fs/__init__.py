"""What the file system is asked for: atomic writes, locks, system calls."""
