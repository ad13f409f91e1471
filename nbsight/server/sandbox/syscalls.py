"""The system calls that filters speak of, with their numbers on the machines that we know.

The numbers are the kernel's and never change. A `-` says that a machine has no such call.
`tests/server/sandbox/test_filters.py` compares them with libseccomp's.
"""

from __future__ import annotations

import platform

__all__ = ["ARCHITECTURES", "numbers"]

#: By what `platform.machine()` says: the kernel's own mark, and the column of the table.
ARCHITECTURES = {"x86_64": (0xC000003E, 1), "aarch64": (0xC00000B7, 2)}

#: name, x86_64, aarch64
_TABLE = """
read 0 63
write 1 64
readv 19 65
writev 20 66
pread64 17 67
pwrite64 18 68
close 3 57
fstat 5 80
stat 4 -
lstat 6 -
newfstatat 262 79
statx 332 291
lseek 8 62
mmap 9 222
mprotect 10 226
munmap 11 215
mremap 25 216
brk 12 214
madvise 28 233
rt_sigaction 13 134
rt_sigprocmask 14 135
rt_sigreturn 15 139
sigaltstack 131 132
poll 7 -
ppoll 271 73
select 23 -
pselect6 270 72
ioctl 16 29
access 21 -
faccessat 269 48
faccessat2 439 439
readlink 89 -
readlinkat 267 78
getcwd 79 17
open 2 -
openat 257 56
getdents64 217 61
fcntl 72 25
sched_yield 24 124
sched_getaffinity 204 123
sched_getparam 143 121
sched_getscheduler 145 120
getpid 39 172
gettid 186 178
getppid 110 173
getuid 102 174
geteuid 107 175
getgid 104 176
getegid 108 177
getpgrp 111 -
clock_gettime 228 113
clock_getres 229 114
clock_nanosleep 230 115
nanosleep 35 101
gettimeofday 96 169
time 201 -
times 100 153
getrusage 98 165
getrlimit 97 163
prlimit64 302 261
sysinfo 99 179
uname 63 160
getrandom 318 278
futex 202 98
set_robust_list 273 99
rseq 334 293
set_tid_address 218 96
arch_prctl 158 -
clone 56 220
clone3 435 435
exit 60 93
exit_group 231 94
membarrier 324 283
restart_syscall 219 128
get_mempolicy 239 236
getcpu 309 168
prctl 157 167
openat2 437 437
fadvise64 221 223
execve 59 221
fork 57 -
vfork 58 -
wait4 61 260
waitid 247 95
sendmsg 46 211
recvmsg 47 212
sendto 44 206
recvfrom 45 207
seccomp 317 277
landlock_create_ruleset 444 444
landlock_add_rule 445 445
landlock_restrict_self 446 446
setresuid 117 147
setresgid 119 149
setgroups 116 159
setuid 105 146
setgid 106 144
pidfd_open 434 434
capget 125 90
capset 126 91
setrlimit 160 164
dup2 33 -
dup3 292 24
pipe2 293 59
chdir 80 49
eventfd2 290 19
umask 95 166
unlink 87 -
unlinkat 263 35
mkdir 83 -
mkdirat 258 34
rmdir 84 -
getsockname 51 204
getsockopt 55 209
sched_setaffinity 203 122
getpgid 121 155
getsid 124 156
getgroups 115 158
getresuid 118 148
getresgid 120 150
sched_get_priority_max 146 125
sched_get_priority_min 147 126
"""


def numbers(machine: str = "") -> dict[str, int]:
    """The numbers of the calls that a machine has, by name.

    Raises:
        KeyError: the machine is not in the table.
    """
    column = ARCHITECTURES[machine or platform.machine()][1]
    rows = [line.split() for line in _TABLE.split("\n") if line]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}
