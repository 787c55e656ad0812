# duccmake: container images into CernVM-FS.
# `snakemake --cores N` brings the repository in step with the wish list,
# `snakemake -n` shows what that would do.  See README.md.
include: "workflow/Snakefile"


# What an included file says about it does not count for Snakemake.
workflow.default_target = "all"
