"""A seccomp filter, as a classic BPF program, that blocks system calls which a program under test does not need.

They would bypass the other limits: kernel features with a history of vulnerabilities (bpf, io_uring, userfaultfd,
keys), memory that no limit counts (memfd_create, System V shared memory), other processes' memory, new namespaces and
mounts, and sockets other than Unix and internet ones, since a network namespace does not contain vsock.
"""

import platform
import struct

# Numbers of the kernel's tables for x86-64 and arm64 (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/
# unistd.h).
REFUSED = {
    "x86_64": {
        "shmget": 29, "ptrace": 101, "syslog": 103, "pivot_root": 155, "chroot": 161, "acct": 163, "mount": 165,
        "umount2": 166, "swapon": 167, "reboot": 169, "init_module": 175, "delete_module": 176, "quotactl": 179,
        "mq_open": 240, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272,
        "perf_event_open": 298, "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310,
        "process_vm_writev": 311, "finit_module": 313, "memfd_create": 319, "kexec_file_load": 320, "bpf": 321,
        "userfaultfd": 323,
    },
    "aarch64": {
        "shmget": 194, "ptrace": 117, "syslog": 116, "pivot_root": 41, "chroot": 51, "acct": 89, "mount": 40,
        "umount2": 39, "swapon": 224, "reboot": 142, "init_module": 105, "delete_module": 106, "quotactl": 60,
        "mq_open": 180, "kexec_load": 104, "add_key": 217, "request_key": 218, "keyctl": 219, "unshare": 97,
        "perf_event_open": 241, "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270,
        "process_vm_writev": 271, "finit_module": 273, "memfd_create": 279, "kexec_file_load": 294, "bpf": 280,
        "userfaultfd": 282,
    },
}  # fmt: skip
# The same numbers everywhere: io_uring's three, the calls of the mount API, clone3. With ENOSYS, glibc takes clone.
ABSENT = [425, 426, 427, 428, 429, 430, 431, 432, 433, 435, 442]
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*
CLONE = {"x86_64": 56, "aarch64": 220}
SOCKET = {"x86_64": 41, "aarch64": 198}
FAMILIES = [1, 2, 10]  # AF_UNIX, AF_INET, AF_INET6
NAMESPACES = 0x7E020080  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, and NEWTIME
OTHER_ABI = 0x40000000  # x32's numbers begin here

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS, EAFNOSUPPORT = (0x00050000 | number for number in (1, 38, 97))  # SECCOMP_RET_ERRNO
NUMBER, ARCH, ARGUMENT = 0, 4, 16  # offsets in seccomp_data; the low half of the first argument


def filter_program() -> bytes | None:
    """The filter in the kernel's format, `struct sock_filter[]`; None for a processor that is not listed here."""
    machine = platform.machine()
    if machine not in REFUSED:
        return None
    lines: list[tuple[int, int, int, int]] = [
        (LOAD, 0, 0, ARCH),
        (EQUAL, 1, 0, ARCHITECTURE[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 0, 1, OTHER_ABI),
        (RETURN, 0, 0, KILL),
    ]
    for number in REFUSED[machine].values():
        lines += [(EQUAL, 0, 1, number), (RETURN, 0, 0, EPERM)]
    for number in ABSENT:
        lines += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ENOSYS)]
    lines += [
        (EQUAL, 0, 4, CLONE[machine]),
        (LOAD, 0, 0, ARGUMENT),
        (ANY_BIT, 0, 1, NAMESPACES),
        (RETURN, 0, 0, EPERM),
        (RETURN, 0, 0, ALLOW),
        (EQUAL, 1, 0, SOCKET[machine]),
        (RETURN, 0, 0, ALLOW),
        (LOAD, 0, 0, ARGUMENT),
    ]
    for position, family in enumerate(FAMILIES):
        lines.append((EQUAL, len(FAMILIES) - position, 0, family))
    lines += [(RETURN, 0, 0, EAFNOSUPPORT), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("HBBI", *line) for line in lines)
