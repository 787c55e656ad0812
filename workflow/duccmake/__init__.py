"""duccmake: container images into CernVM-FS, as a Snakemake pipeline.

The package holds all logic and knows nothing of Snakemake.  Imports point one
way: values (``reference``, ``manifest``, ``mtree``) at the bottom, streams and
trees above them, repositories above those, the workflow's plan on top.
"""

__version__ = "0.1.0"
