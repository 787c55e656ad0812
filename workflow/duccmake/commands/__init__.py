"""The program ``duccmake``: what people ask, beside ``snakemake``, which does the work."""
