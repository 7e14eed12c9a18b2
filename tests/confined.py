"""Decodes hostile and odd files in a process that the kernel kills if it opens a file or socket or starts a process.

Run as a module; prints each name before its file is read. Linux on x86_64.
"""

import ctypes
import sys

from roadwork_serve.errors import MediaError
from roadwork_serve.media import open_rgb, page, read
from roadwork_serve.profiles.profile import MediaLimits
from tests import corpus

# From linux/prctl.h, linux/seccomp.h, linux/bpf_common.h and asm/unistd_64.h.
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
KILL_PROCESS, ALLOW = 0x80000000, 0x7FFF0000
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
FORBIDDEN = {
    "open": 2, "creat": 85, "openat": 257, "openat2": 437, "mkdir": 83, "rename": 82, "unlink": 87, "symlink": 88,
    "socket": 41, "connect": 42, "bind": 49, "socketpair": 53, "fork": 57, "vfork": 58, "execve": 59,
}  # fmt: skip


class Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("value", ctypes.c_uint32))


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(Instruction)))


def confine() -> None:
    """Make every forbidden system call, by any thread, end the process with SIGSYS."""
    steps = [(LOAD_WORD, 0, 0, 0)]  # the number of the call
    steps += [(JUMP_IF_EQUAL, len(FORBIDDEN) - at, 0, number) for at, number in enumerate(FORBIDDEN.values())]
    steps += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, KILL_PROCESS)]
    program = Program(len(steps), (Instruction * len(steps))(*(Instruction(*step) for step in steps)))
    prctl = ctypes.CDLL(None).prctl
    if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
    ):
        sys.exit("the kernel does not confine processes")


def main() -> None:
    files = {name: data for name, (data, _) in corpus.hostile_files().items()}
    files |= {name: data for name, (data, _) in corpus.odd_files().items()}
    files |= {name: data for name, (data, _) in corpus.addressed_files(sys.argv[1]).items()}
    for kind in ("JPEG", "PNG", "WEBP"):  # what libraries open for themselves when they are first used
        open_rgb(page(corpus.encoded(corpus.picture(), kind), MediaLimits()))
    for data in (corpus.clip(), corpus.clip(kind="webm", codec="libvpx")):
        read(data, MediaLimits())
    confine()
    for name, data in files.items():
        print(name, flush=True)
        try:
            for image in read(data, MediaLimits()).images or (page(data, MediaLimits()),):
                open_rgb(image)
        except MediaError:
            continue
    print("confined to the end")
    if "--escape" in sys.argv:
        open(__file__).close()


if __name__ == "__main__":
    main()
