# They take a moment, and a cluster has better to do.
localrules:
    open_gate,


rule open_gate:
    """Let the layers of more images be fetched, once there is nothing better to do."""
    input:
        get_gate_before,
    output:
        temp(touch("results/gates/{plan}/{gate}")),
    log:
        "logs/open_gate/{plan}/{gate}.log",
    conda:
        "../../environment.yml"
    resources:
        # While anything is fetched there is something better to do.
        downloads=get_all_downloads,
    message:
        "Let layers be fetched of the images behind gate {wildcards.gate}"
    shell:
        "job open_gate {log:q} {wildcards.gate}"


rule fetch_blob:
    """Download a layer's blob once, for all images that share it."""
    input:
        ancient(get_gate),
    output:
        temp("results/blobs/{blob}"),
    log:
        "logs/fetch_blob/{blob}.log",
    priority: 10
    group:
        get_group_of_layer
    conda:
        "../../environment.yml"
    threads: get_download_threads
    resources:
        **get_needs(to_fetch, "blob"),
        downloads=get_download,
    params:
        digest=get_blob_digest,
    message:
        "Fetch layer {wildcards.blob}"
    shell:
        "job fetch_blob {log:q} {output:q} {wildcards.blob}"


rule unpack_layer:
    """Unpack a layer into a staged directory; a missing or wrong byte fails it."""
    input:
        blob="results/blobs/{layer}",
    output:
        temp(directory("results/{repository}/layers/{layer}")),
    log:
        "logs/unpack_layer/{repository}/{layer}.log",
    priority: 20
    group:
        get_group_of_layer
    conda:
        "../../environment.yml"
    resources:
        **get_needs(to_unpack, "layer"),
    params:
        diff_algorithms=get_diff_algorithms,
        boot=os.environ[BOOT_VARIABLE],
        format=LAYER_FORMAT,
        form=get_form(),
    message:
        "Unpack layer {wildcards.layer}"
    shell:
        "job unpack_layer {log:q} {output:q} {wildcards.repository:q} {wildcards.layer} {input.blob:q}"
