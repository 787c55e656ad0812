"""A tar archive as a stream of members: ustar, PAX, GNU and V7 headers.

One parser decides what each header says, and everything downstream sees its
decision (CVE-2025-62518 and its kin are disagreements between two).  It is
stricter than Python's ``tarfile``, which takes a damaged header for the end.
Formats: POSIX.1-2017 pax, "pax Interchange Format" and "ustar Interchange
Format"; GNU tar manual, "Basic Tar Format" and "Storing Sparse Files".
"""

from .headers import HARDLINK
from .reader import Member, TarReader

__all__ = ["HARDLINK", "Member", "TarReader"]
