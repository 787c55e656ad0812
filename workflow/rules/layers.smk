rule fetch_blob:
    """Download a layer's blob once, for all images that share it."""
    output:
        temp("results/blobs/{layer}"),
    log:
        "logs/fetch_blob/{layer}.log",
    conda:
        "../../environment.yml"
    params:
        digest=get_layer_digest,
    message:
        "Fetch layer {wildcards.layer}"
    script:
        "../../scripts/fetch_blob.py"


rule unpack_layer:
    """Unpack a layer into a staged directory; a missing or wrong byte fails it."""
    input:
        blob="results/blobs/{layer}",
    output:
        temp(directory("results/{repository}/layers/{layer}")),
    log:
        "logs/unpack_layer/{repository}/{layer}.log",
    conda:
        "../../environment.yml"
    params:
        diff_id=get_diff_id,
        boot=boot_id(),
        format=LAYER_FORMAT,
    message:
        "Unpack layer {wildcards.layer}"
    script:
        "../../scripts/unpack_layer.py"
