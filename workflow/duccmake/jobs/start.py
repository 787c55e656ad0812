"""Imported first by a job's script: Control-C while the rest is imported ends it without a word.

`duccmake.jobs.job.running` has it raise `KeyboardInterrupt` again.  Where it is ignored, as in
a shell's background jobs, it stays so.
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
