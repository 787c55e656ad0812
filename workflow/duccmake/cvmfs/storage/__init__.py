"""Where the objects of a repository are stored."""
