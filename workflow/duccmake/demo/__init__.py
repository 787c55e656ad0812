"""A registry and sample images of our own, for the demo; tests build upon them."""
