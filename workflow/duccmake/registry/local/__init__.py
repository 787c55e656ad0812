"""Images in files, read as if a registry had them."""
