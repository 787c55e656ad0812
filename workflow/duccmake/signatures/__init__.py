"""Who may publish: policies as podman and skopeo read them, and signatures held to them.

Nothing here asks anybody: values in (a policy, an image's name, manifests and signatures as
bytes), a verdict out.
"""
