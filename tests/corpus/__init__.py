"""Odd and hostile layers, each built by a few lines, with what must come of it.

`images` has stacks of layers and the tree they are; `streams` has blobs, sound
and damaged; `hostile` has layers that try to leave their directory.
"""
