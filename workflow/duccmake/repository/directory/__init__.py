"""A repository in a plain directory."""
