"""One run of the workflow around its jobs: its start, what people see, its status."""
