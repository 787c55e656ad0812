"""Names, manifests and configurations of images, as the OCI specifications have them."""
