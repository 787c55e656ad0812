"""What starts runs by itself: the watcher, and webhooks that wake it."""
