# duccmake: container images into CernVM-FS.
# `snakemake --cores N` brings the repository in step with the wish list,
# `snakemake -n` shows what that would do.  See README.md.
from pathlib import Path

from snakemake.utils import min_version

min_version("9.10")

if Path("config/config.yaml").exists():

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/layers.smk"
include: "workflow/rules/images.smk"
include: "workflow/rules/publish.smk"
include: "workflow/rules/thin.smk"
include: "workflow/rules/maintenance.smk"


rule all:
    """Every wished image published, every wish that cannot be followed reported."""
    default_target: True
    input:
        get_targets(),
