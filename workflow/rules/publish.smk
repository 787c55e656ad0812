# Whoever publishes does so where the repository is.  A profile's retries are for what may go
# wrong with a machine.
localrules:
    publish_image,
    report_problem,


rule publish_image:
    """Publish an image, whole or not at all, with all others that are ready by then."""
    input:
        layers=get_layers_of_image,
        flat=get_flat_of_image,
    output:
        "results/{repository}/published/{image}/{manifest}.json",
    log:
        "logs/publish_image/{repository}/{image}/{manifest}.log",
    # What is published makes room for more, so it goes before all that fetches.
    priority: 40
    retries: 0
    conda:
        "../../environment.yml"
    resources:
        **publisher,
    params:
        digest=get_manifest_digest,
        why=get_why,
    message:
        "Publish {wildcards.image} ({wildcards.manifest}) in {wildcards.repository}: {params.why}"
    shell:
        "job publish_image {log:q} {output:q} {wildcards.repository:q} {wildcards.image:q} {input:q}"


rule report_problem:
    """Fail for a wish that cannot be followed, so that the run's exit status tells."""
    output:
        touch("results/problems/{problem}"),
    log:
        "logs/report_problem/{problem}.log",
    retries: 0
    conda:
        "../../environment.yml"
    params:
        reason=get_reason,
    message:
        "Cannot follow a wish: {params.reason}"
    shell:
        "job report_problem {log:q} {wildcards.problem}"
