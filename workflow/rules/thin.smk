# It takes a moment and credentials, so that it runs where Snakemake does.
localrules:
    push_thin_image,


rule push_thin_image:
    """Push an image's thin image, once its layers are visible in the repository."""
    input:
        get_published_of_thin,
    output:
        "results/thin/{repository}/{image}/{thin}.thin.json",
    log:
        "logs/push_thin_image/{repository}/{image}/{thin}.log",
    retries: 0
    conda:
        "../../environment.yml"
    params:
        target=get_thin_target,
        why=get_thin_why,
    message:
        "Push the thin image {params.target}: {params.why}"
    shell:
        "job push_thin_image {log:q} {output:q} {wildcards.repository:q} {wildcards.image:q} {input:q}"
