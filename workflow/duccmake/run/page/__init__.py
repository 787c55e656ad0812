"""The page "Where is my image?": a status document as one file for a browser."""
