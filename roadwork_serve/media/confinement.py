"""Confinement of a process that decodes: it keeps its memory and its open files, and can get no new ones.

After `confine` the process can compute, start threads, and use the socket it already has. It can open no file or
socket, start no process, run no new machine code, and change nothing about other processes. Standard library only:
PyPI has no maintained binding of seccomp or Landlock.
"""

import ctypes
import os
import platform
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# From linux/prctl.h, linux/seccomp.h, linux/audit.h, linux/bpf_common.h, linux/sched.h and linux/mman.h.
_PR_SET_NAME, _PR_SET_NO_NEW_PRIVS = 15, 38
_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC = 1, 1
_KILL_PROCESS, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_LOAD_WORD, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _JUMP_IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_CALL_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16  # in struct seccomp_data; the low half of an argument comes first
_CLONE_THREAD, _PROT_EXEC = 0x10000, 4
_EPERM, _ENOSYS = 1, 38
_NEWEST_CALL = 470  # newer calls do not exist for a confined process, so that libraries fall back to older ones

# From linux/landlock.h: the rights on files that each version of the interface added, and the same for the network.
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF, _LANDLOCK_VERSION = 444, 446, 1
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}  # version -> number of rights
_NETWORK_RIGHTS, _SCOPES = 0b11, 0b11  # from versions 4 and 6 on

_ALWAYS = (
    "read", "write", "readv", "writev", "close", "fstat", "lseek", "ppoll", "recvfrom", "sendto", "recvmsg", "sendmsg",
    "shutdown", "getsockname", "getpeername", "getsockopt", "munmap", "brk", "mremap", "madvise", "rt_sigaction",
    "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "sched_yield", "nanosleep", "clock_nanosleep", "clock_gettime",
    "clock_getres", "gettimeofday", "setitimer", "getpid", "gettid", "exit", "exit_group", "uname", "getrlimit",
    "setrlimit", "getrusage", "sysinfo", "futex", "sched_getaffinity", "set_tid_address", "restart_syscall",
    "set_robust_list", "getcpu", "getrandom", "membarrier", "rseq", "sched_getparam", "sched_getscheduler",
    "sched_get_priority_max", "sched_get_priority_min", "alarm", "pause", "poll", "time",
)  # fmt: skip


class _Machine(NamedTuple):
    """Numbers of the system calls of a machine, by name, and of its architecture."""

    architecture: int
    calls: Mapping[str, int]


_MACHINES = {
    "x86_64": _Machine(  # asm/unistd_64.h
        0xC000003E,
        {
            "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10,
            "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "readv": 19,
            "writev": 20, "sched_yield": 24, "mremap": 25, "madvise": 28, "pause": 34, "nanosleep": 35, "alarm": 37,
            "setitimer": 38, "getpid": 39, "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "shutdown": 48,
            "getsockname": 51, "getpeername": 52, "getsockopt": 55, "clone": 56, "exit": 60, "uname": 63,
            "gettimeofday": 96, "getrlimit": 97, "getrusage": 98, "sysinfo": 99, "sigaltstack": 131,
            "sched_getparam": 143, "sched_getscheduler": 145, "sched_get_priority_max": 146,
            "sched_get_priority_min": 147, "prctl": 157, "setrlimit": 160, "gettid": 186, "time": 201, "futex": 202,
            "sched_getaffinity": 204, "set_tid_address": 218, "restart_syscall": 219, "clock_gettime": 228,
            "clock_getres": 229, "clock_nanosleep": 230, "exit_group": 231, "tgkill": 234, "ppoll": 271,
            "set_robust_list": 273, "prlimit64": 302, "getcpu": 309, "seccomp": 317, "getrandom": 318,
            "membarrier": 324, "pkey_mprotect": 329, "rseq": 334, "clone3": 435,
        },
    ),
    "aarch64": _Machine(  # asm-generic/unistd.h
        0xC00000B7,
        {
            "close": 57, "lseek": 62, "read": 63, "write": 64, "readv": 65, "writev": 66, "ppoll": 73, "fstat": 80,
            "exit": 93, "exit_group": 94, "set_tid_address": 96, "futex": 98, "set_robust_list": 99, "nanosleep": 101,
            "setitimer": 103, "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115,
            "sched_getscheduler": 120, "sched_getparam": 121, "sched_getaffinity": 123, "sched_yield": 124,
            "sched_get_priority_max": 125, "sched_get_priority_min": 126, "restart_syscall": 128, "tgkill": 131,
            "sigaltstack": 132, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "uname": 160,
            "getrlimit": 163, "setrlimit": 164, "getrusage": 165, "prctl": 167, "getcpu": 168, "gettimeofday": 169,
            "getpid": 172, "gettid": 178, "sysinfo": 179, "getsockname": 204, "getpeername": 205, "sendto": 206,
            "recvfrom": 207, "getsockopt": 209, "shutdown": 210, "sendmsg": 211, "recvmsg": 212, "brk": 214,
            "munmap": 215, "mremap": 216, "clone": 220, "mmap": 222, "mprotect": 226, "madvise": 233,
            "prlimit64": 261, "seccomp": 277, "getrandom": 278, "membarrier": 283, "pkey_mprotect": 288, "rseq": 293,
            "clone3": 435,
        },
    ),
}  # fmt: skip


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("value", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


def confine() -> list[str]:
    """Confine this process for good, and return the protections that the kernel or platform lacks.

    The process needs everything imported that it will use, and should have only one thread.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # without it the two others are refused
        protections = {"Landlock": _restrict_files, "seccomp": _filter_calls}  # the filter refuses Landlock's calls
        lacks = [name for name, apply in protections.items() if not apply(libc)]
    else:
        lacks = ["Landlock", "seccomp"]
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))  # the standard streams, which are open already
    return lacks


def _restrict_files(libc: ctypes.CDLL) -> bool:
    """Forbid all access to files, and as far as the kernel can, to the network and to signals. Return success."""
    version = libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return False
    rights = max(count for since, count in _FILE_RIGHTS.items() if since <= version)
    ruleset = _Ruleset((1 << rights) - 1, _NETWORK_RIGHTS, _SCOPES)
    size = ctypes.sizeof(ctypes.c_uint64) * (1 if version < 4 else 2 if version < 6 else 3)
    descriptor = libc.syscall(_LANDLOCK_CREATE_RULESET, ctypes.byref(ruleset), size, 0)
    if descriptor < 0:
        return False
    try:
        return libc.syscall(_LANDLOCK_RESTRICT_SELF, descriptor, 0) == 0
    finally:
        os.close(descriptor)


def _filter_calls(libc: ctypes.CDLL) -> bool:
    """Refuse all system calls but those that decoding needs, in all threads. Return success."""
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return False
    steps = _filter(machine, os.getpid())
    program = _Program(len(steps), (_Instruction * len(steps))(*steps))
    call = machine.calls["seccomp"]
    return libc.syscall(call, _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, ctypes.byref(program)) == 0


def _filter(machine: _Machine, pid: int) -> Sequence[_Instruction]:
    """Return the filter as a program of the Berkeley Packet Filter."""
    allowed = [machine.calls[name] for name in _ALWAYS if name in machine.calls]
    steps = [
        (_LOAD_WORD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_IF_EQUAL, 1, 0, machine.architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),  # the 32-bit calls of the same machine have other numbers
        (_LOAD_WORD, 0, 0, _CALL_AT),
        (_JUMP_IF_EQUAL, 0, 1, machine.calls["clone3"]),  # its flags are in memory, which a filter cannot read
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
        (_JUMP_IF_AT_LEAST, 0, 1, _NEWEST_CALL),
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
    ]
    for name, argument, jump, value, then in (
        ("clone", 0, _JUMP_IF_ANY_BIT, _CLONE_THREAD, True),
        ("mmap", 2, _JUMP_IF_ANY_BIT, _PROT_EXEC, False),
        ("mprotect", 2, _JUMP_IF_ANY_BIT, _PROT_EXEC, False),
        ("pkey_mprotect", 2, _JUMP_IF_ANY_BIT, _PROT_EXEC, False),
        ("prctl", 0, _JUMP_IF_EQUAL, _PR_SET_NAME, True),
        ("prlimit64", 0, _JUMP_IF_EQUAL, 0, True),  # of this process
        ("tgkill", 0, _JUMP_IF_EQUAL, pid, True),  # abort()
    ):
        steps += [
            (_JUMP_IF_EQUAL, 0, 4, machine.calls[name]),
            (_LOAD_WORD, 0, 0, _ARGUMENTS_AT + 8 * argument),
            (jump, 0, 1, value),
            (_RETURN, 0, 0, _ALLOW if then else _ERRNO | _EPERM),
            (_RETURN, 0, 0, _ERRNO | _EPERM if then else _ALLOW),
        ]
    steps += [(_JUMP_IF_EQUAL, len(allowed) - at, 0, number) for at, number in enumerate(allowed)]
    steps += [(_RETURN, 0, 0, _ERRNO | _EPERM), (_RETURN, 0, 0, _ALLOW)]
    return [_Instruction(*step) for step in steps]
