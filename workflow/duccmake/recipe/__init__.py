"""Wish lists: what they say, and where they come from."""
