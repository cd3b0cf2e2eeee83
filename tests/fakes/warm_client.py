"""The ``python`` that warm_python.py makes: a fork of its starter runs the command line instead.

It understands ``-m module``, ``-c code``, ``script``, ``-u`` and ``-B``; with anything else it
becomes the real Python. It imports nothing but what Python has loaded anyway, and little more.
"""

import json
import os
import signal
import socket
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib takes longer
REAL_PYTHON = os.readlink(f"{FOLDER}/real")  # noqa: PTH115
PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")


def command_line():
    """Returns what Python is to run, and whether unbuffered; scripts of the environment by name."""
    arguments = sys.argv[1:]
    name = os.path.basename(__file__)  # noqa: PTH119
    if name != "python":
        return [f"{os.path.dirname(REAL_PYTHON)}/{name}", *arguments], False  # noqa: PTH120
    options = set()
    while arguments[:1] in (["-u"], ["-B"]):  # a fork sees by the environment what -B says
        options.add(arguments.pop(0))
    return arguments, "-u" in options


def open_files():
    """Returns the numbers of the files that a program inherits from this one."""
    numbers = sorted(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208
    found = []
    for number in numbers:
        try:
            if os.get_inheritable(number):
                found.append(number)
        except OSError:  # that of the listing
            pass
    return found


def main():
    """Asks for a fork, passes signals on to it, and ends as it ends."""
    arguments, is_unbuffered = command_line()
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-m", "-c")):
        os.execv(REAL_PYTHON, [REAL_PYTHON, *sys.argv[1:]])
    files = open_files()
    request = {
        "arguments": arguments,
        "is_unbuffered": is_unbuffered,
        "environment": dict(os.environ),
        "folder": os.getcwd(),  # noqa: PTH109
        "files": files,
        "leads_session": os.getsid(0) == os.getpid(),
    }
    message = json.dumps(request).encode()
    starter = socket.socket(socket.AF_UNIX)
    starter.connect(f"{FOLDER}/socket")
    for name in PASSED_ON:
        signal.signal(getattr(signal, name), lambda number, _: starter.send(bytes([number])))
    socket.send_fds(starter, [len(message).to_bytes(4, "big")], files)
    starter.sendall(message)
    for number in (0, 1, 2):  # who reads a pipe waits until nobody can write any more
        os.dup2(os.open(os.devnull, os.O_RDWR), number)
    answer = starter.recv(4)
    if not answer:
        os._exit(70)
    exit_code = os.waitstatus_to_exitcode(int.from_bytes(answer, "big"))
    if exit_code < 0:
        signal.signal(-exit_code, signal.SIG_DFL) if exit_code != -signal.SIGKILL else None
        os.kill(os.getpid(), -exit_code)
    os._exit(exit_code)


main()
