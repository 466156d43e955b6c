"""Runs the command line in children that a test can kill, limit or take rights from.

One server process imports everything once and forks a child for each request: starting a fresh
interpreter for every kill would take longer than what is killed. The server itself never computes,
so a forked child finds no thread of a numeric library missing.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path


class Server:
    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self._process.stdout.readline() == "ready\n"

    def start(self, *arguments, file_limit=None, powerless=False, checkpoint_seconds=None):
        """Starts the command line in a child and returns its process id."""
        request = {
            "arguments": [str(argument) for argument in arguments],
            "file_limit": file_limit,
            "powerless": powerless,
            "checkpoint_seconds": checkpoint_seconds,
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        return int(self._process.stdout.readline())

    def wait(self):
        """Waits for the child; returns its exit status (negative: the signal) and its output."""
        answer = json.loads(self._process.stdout.readline())
        return answer["status"], answer["output"]

    def run(self, *arguments, **options):
        self.start(*arguments, **options)
        return self.wait()

    def run_and_kill(self, seconds, *arguments, begun=None, **options):
        """Kills the command after some seconds, counted from when the file `begun` exists.

        Returns its exit status: −9 if it was killed, else it was done before.
        """
        pid = self.start(*arguments, **options)
        deadline = time.monotonic() + 60
        while begun is not None and not begun.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
            if _is_over(pid):
                break
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return self.wait()[0]

    def close(self):
        self._process.stdin.close()
        self._process.wait(timeout=30)


def in_child(work):
    """Does something in a child process, which says nothing but errors; returns its id."""
    import torch

    from losspath.errors import LosspathWarning

    pid = os.fork()
    if pid:
        return pid
    try:
        warnings.simplefilter("ignore", LosspathWarning)
        torch.set_num_threads(1)  # threads of the parent are not in the child
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _is_over(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def _serve():
    import sklearn.datasets  # noqa: F401

    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            os.dup2(write, 1)
            os.dup2(write, 2)
            _child(request)
        os.close(write)
        print(pid, flush=True)
        with os.fdopen(read) as pipe:
            output = pipe.read()
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"status": code, "output": output}), flush=True)


def _child(request):
    from losspath import cli
    from losspath.thesis import training

    code = 70
    try:
        if request["file_limit"] is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"],) * 2)
        if request["powerless"]:
            _obey_permissions()
        if request["checkpoint_seconds"] is not None:
            training.CHECKPOINT_SECONDS = request["checkpoint_seconds"]
        cli.main(request["arguments"])
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _obey_permissions():
    """Gives up the right of root to write where file permissions forbid it."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, twice
    if libc.capget(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    if libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    _serve()
