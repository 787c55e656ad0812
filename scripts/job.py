"""Run a job's script: in a process that is forked for it where there is a server, else as one.

``job.py NAME ARGUMENT...`` runs ``NAME.py``.  It imports next to nothing, since it is started
for each job; `duccmake.jobs.server` tells what it talks to.
"""

import _signal
import _socket
import posix
import sys


def ask(script, arguments):
    """Ask for the job and wait for it: its status, or None where nobody takes it."""
    path = posix.environ.get(b"DUCCMAKE_JOBS")
    if not path:
        return None
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    variables = [name + b"=" + value for name, value in posix.environ.items()]
    words = [bytes(word, "utf-8", "surrogateescape") for word in (script, *arguments)]
    request = [posix.getcwdb(), b"%d" % len(words), *words, *variables]
    streams = (1).to_bytes(4, sys.byteorder) + (2).to_bytes(4, sys.byteorder)
    try:
        connection.connect(path)
        # What only this one hears of, the job has to be told.
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        _signal.signal(_signal.SIGTERM, lambda number, _: connection.send(b"%d" % number))
        connection.sendmsg(
            [b"\0".join(request)], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)]
        )
        is_taken = connection.recv(16)
    except OSError:
        is_taken = b""
    if not is_taken:
        _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
        _signal.signal(_signal.SIGINT, interrupt)
        return None
    try:
        status = connection.recv(16)
    except OSError:
        status = b""
    return int(status or -_signal.SIGKILL)


def end(status):
    """End as the job did."""
    if status < 0:
        if -status != _signal.SIGKILL:
            _signal.signal(-status, _signal.SIG_DFL)
        posix.kill(posix.getpid(), -status)
    sys.exit(status)


interrupt = _signal.getsignal(_signal.SIGINT)
if interrupt != _signal.SIG_IGN:  # as `duccmake.jobs.start` has it
    interrupt = _signal.SIG_DFL
    _signal.signal(_signal.SIGINT, interrupt)
name, *arguments = sys.argv[1:]
script = sys.argv[0][: -len("job.py")] + name + ".py"
status = ask(script, arguments)
if status is None:
    posix.execv(sys.executable, [sys.executable, script, *arguments])
end(status)
