"""The configuration: its schema, its checks, and what it amounts to as values."""
