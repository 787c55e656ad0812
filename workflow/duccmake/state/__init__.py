"""What is kept of each image's life, beside its repository: history, which can be lost."""
