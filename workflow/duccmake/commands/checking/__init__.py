"""What ``duccmake check`` finds in a wish list, and the forms in which it says so."""
