"""Where wish lists come from: files, addresses on the web, git repositories.

`duccmake.recipe.sources.load.load_sources` is what the rest of duccmake calls.
"""
