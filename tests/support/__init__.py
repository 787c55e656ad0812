"""What several tests share: servers, registries, repositories, images, runs of the pipeline."""
