"""A registry and sample images of our own, for the demo and for tests."""
