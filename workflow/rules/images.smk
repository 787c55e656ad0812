rule flatten_image:
    """Merge the layers' manifests into the flat tree's; no content is read."""
    input:
        get_layers_of_tree,
    output:
        temp(directory("results/{repository}/flat/{config}")),
    log:
        "logs/flatten_image/{repository}/{config}.log",
    priority: 30
    group:
        get_group_of_tree
    conda:
        "../../environment.yml"
    resources:
        **get_needs(to_flatten, "repository", "config"),
    params:
        digest=get_tree_digest,
        boot=os.environ[BOOT_VARIABLE],
        format=RECORD_FORMAT,
        form=get_form(),
    message:
        "Flatten the image with configuration {wildcards.config}"
    shell:
        "job flatten_image {log:q} {output:q} {wildcards.repository:q} {wildcards.config} {input:q}"
