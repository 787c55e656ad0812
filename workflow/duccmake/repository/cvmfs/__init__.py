"""CernVM-FS repositories: publishing through ``cvmfs_server``."""
