"""What CernVM-FS repositories are made of: objects, catalogs, manifests, and where they are stored.

Formats alone, as CernVM-FS 2.12 writes them (catalog schema 2.5, revision 7); what is
published, and when, is decided elsewhere.
"""
