localrules:
    prune_images,
    refuse_images,
    collect_garbage,
    prune,
    gc,
    adopt,
    status,
    rollback,
    unpin,


rule prune_images:
    """Take the names of images away that are not wished for any more."""
    output:
        "results/{repository}/pruned/{departures}.json",
    log:
        "logs/prune_images/{repository}/{departures}.log",
    retries: 0
    conda:
        "../../environment.yml"
    resources:
        **publisher,
    params:
        preview=get_pruning,
    message:
        "Prune {wildcards.repository}: {params.preview}"
    shell:
        "job prune_images {log:q} {output:q} {wildcards.repository:q}"


rule refuse_images:
    """Take images away that earlier versions published and that are not what they say."""
    output:
        "results/{repository}/refused/{departures}.json",
    log:
        "logs/refuse_images/{repository}/{departures}.log",
    retries: 0
    conda:
        "../../environment.yml"
    resources:
        **publisher,
    message:
        "Take away what is not what it says in {wildcards.repository}"
    shell:
        "job refuse_images {log:q} {output:q} {wildcards.repository:q}"


rule collect_garbage:
    """Remove flat trees and layers that no image has used for their time of grace."""
    output:
        "results/{repository}/collected/{garbage}.json",
    log:
        "logs/collect_garbage/{repository}/{garbage}.log",
    retries: 0
    conda:
        "../../environment.yml"
    resources:
        **publisher,
    params:
        preview=get_collection,
    message:
        "Collect garbage in {wildcards.repository}: {params.preview}"
    shell:
        "job collect_garbage {log:q} {output:q} {wildcards.repository:q}"


rule prune:
    """Images that are not wished for any more gone from all repositories, by name."""
    input:
        lambda wildcards: or_nothing(get_prunings()),


rule gc:
    """What no image uses any more gone from all repositories."""
    input:
        lambda wildcards: or_nothing(get_collections(tell=True)),


rule adopt:
    """Images that DUCC published taken over as they stand; nothing is fetched."""
    input:
        lambda wildcards: or_nothing(get_adoptions()),


rule verify_part:
    """Hold a part of what is published to what it was published as."""
    output:
        "results/{repository}/verified/{part}.json",
    log:
        "logs/verify_part/{repository}/{part}.log",
    conda:
        "../../environment.yml"
    message:
        "Verify a part of {wildcards.repository}"
    shell:
        "job verify_part {log:q} {output:q} {wildcards.repository:q} {wildcards.part}"


rule verify:
    """What is published held to what it was published as; ends with status 1 if it is not so."""
    input:
        lambda wildcards: [str(part.output) for part in get_verification()[1]],
    log:
        "logs/verify.log",
    conda:
        "../../environment.yml"
    params:
        seed=lambda wildcards: get_verification()[0],
    message:
        "Say what is damaged"
    shell:
        "job verify {log:q} {params.seed} {input:q}"


rule repair:
    """What was found damaged made anew, where its registry still has it."""
    input:
        lambda wildcards: or_nothing(get_repairs()),


rule status:
    """How each image stands, as a table: shown while this is read, and no job follows."""
    input:
        or_nothing([]),


rule rollback:
    """Point a tag back to a digest that it left, and hold it there; or say which there are."""
    log:
        "logs/rollback.log",
    retries: 0
    conda:
        "../../environment.yml"
    resources:
        **all_publishers,
    params:
        what=get_rollback,
    message:
        "{params.what}"
    shell:
        "job rollback {log:q}"


rule unpin:
    """Have a tag follow its registry again."""
    log:
        "logs/unpin.log",
    retries: 0
    conda:
        "../../environment.yml"
    resources:
        **all_publishers,
    params:
        what=get_unpinning,
    message:
        "{params.what}"
    shell:
        "job unpin {log:q}"
