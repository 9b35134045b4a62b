"""C++ and bash: honest programs and attacks, with the verdicts that are right.

`landlock` of a row replaces `must` in that tier, where bash has no processes.
"""

from collections.abc import Iterator

from tests.rewards.sandbox.attacks import BLOCKED, DOUBLE, KILLED, Row, row, says

_HEAD = """
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
"""


def tries(condition: str) -> str:
    """A program that prints ESCAPED where `condition` holds, else BLOCKED."""
    return f'{_HEAD}int main() {{ puts(({condition}) ? "ESCAPED" : "BLOCKED"); }}\n'


def main(body: str) -> str:
    return f"{_HEAD}int main() {{ {body} }}\n"


# Each condition holds only if the program reached what it may not. Short, for a compiler is slow.
_CPP_DOORS = {
    "fork": "fork() >= 0",
    "vfork by number": "syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) >= 0",
    "shell": 'system("true") == 0',
    "second exec": (
        'execl("/proc/self/exe", "x", (char*)0) == 0 || execl("/bin/echo", "x", '
        '"ESCAPED", (char*)0)'
        ' == 0 || syscall(SYS_execveat, open("/bin/echo", O_RDONLY), "", 0, 0, 0x1000) == 0'
    ),
    "files": (
        'open("/etc/passwd", O_RDONLY) >= 0 || open("/root", O_RDONLY) >= 0 || '
        'open("/proc/self/environ", O_RDONLY) >= 0 || open("/usr/lib/sbx_pwn", O_CREAT, 0600) >= 0'
        ' || link("/usr/lib/os-release", "h") == 0 || getenv("SBX_CANARY") || getenv("E2B_API_KEY")'
    ),
    "inherited descriptor": (
        "[] { int n = 3; while (n < 4096 && fcntl(n, F_GETFD) < 0) n++; return n < 4096; }()"
    ),
    "network": (
        "socket(AF_INET, SOCK_STREAM, 0) >= 0 || socket(AF_UNIX, SOCK_STREAM, 0) >= 0 || "
        "socket(AF_NETLINK, SOCK_RAW, 0) >= 0"
    ),
    "processes of others": (
        "kill(-1, 0) == 0 || kill(getppid(), 0) == 0 || ptrace(PTRACE_ATTACH, getppid(), 0, 0) == 0"
        " || syscall(SYS_pidfd_open, getppid(), 0) >= 0"
    ),
    "kernel surface": (
        'unshare(CLONE_NEWUSER) == 0 || mount(0, ".", "tmpfs", 0, 0) == 0 || setuid(0) == 0 || '
        "syscall(SYS_io_uring_setup, 8, malloc(200)) >= 0 || syscall(SYS_bpf, 0, 0, 0) >= 0 || "
        'syscall(SYS_memfd_create, "x", 0) >= 0'
    ),
}

_CPP_ENDS = {
    "loop that ignores signals": (
        main("for (int s = 1; s < 65; s++) signal(s, SIG_IGN); volatile int x = 0; for (;;) x++;"),
        KILLED,
    ),
    "memory": (
        main("for (;;) { char* p = (char*)malloc(1 << 20); if (!p) abort(); *p = 1; }"),
        ("error",),
    ),
    "stack": (
        "int f(int n) { volatile char a[4096]; a[0] = n; return f(n + 1) + a[0]; }\n"
        "int main() { return f(0); }",
        ("error",),
    ),
    "stdout flood": (main('for (;;) puts("42");'), KILLED),
    "exit before main": (
        "#include <unistd.h>\nstruct A { A() { _exit(0); } } a;\nint main() {}",
        ("fail",),
    ),
    "32-bit call": (
        main('int r; asm volatile("int $0x80" : "=a"(r) : "a"(20)); puts("42");'),
        ("error",),
    ),
    "text of a host file": ('#include "/etc/passwd"\nint main() {}', ("error",)),
    "bytes of a host file": (
        'asm(".globl b\\nb: .incbin \\"/etc/passwd\\"\\n");\nextern char b[];\n#include <cstdio>\n'
        "int main() { puts(b); }",
        ("error",),
    ),
    "templates without end": (
        "template <int N> struct A { enum { v = A<N + 1>::v }; };\nint main() { return A<0>::v; }",
        KILLED,
    ),
    "include of itself": ("#include __FILE__\nint main() {}", ("error",)),
    "a binary of gigabytes": ("char a[1u << 31] = {1};\nint main() {}", KILLED),
    "prose": ("I think that the answer is 42.", ("error",)),
}

_CPP_HONEST = {
    "stream": (
        "#include <iostream>\nint main() { int x; std::cin >> x; std::cout << 2 * x << '\\n'; }"
    ),
    "threads": (
        '#include <thread>\n#include <cstdio>\nint main() { int x = 0, y = 0; scanf("%d", &x);\n'
        'std::thread t([&] { y = 2 * x; }); t.join(); printf("%d\\n", y); }'
    ),
    "exceptions": (
        '#include <cstdio>\nint main() { try { throw 42; } catch (int n) { printf("%d", n); } }'
    ),
}

_COSTLY = {"costly": True}
_IF = "if {attempt}; then echo ESCAPED; else echo BLOCKED; fi"
_BASH_DOORS = {
    "password file": "read -r x < /etc/passwd",
    "network device": "exec 9<>/dev/tcp/127.0.0.1/22",
    "own environment block": "read -r -d '' x < /proc/self/environ",
    "secret in the environment": '[[ -n "$SBX_CANARY$E2B_API_KEY" ]]',
    "write outside": "echo x > /usr/lib/sbx_pwn",
    "raised limit": "ulimit -S -v unlimited && ulimit -H -v unlimited && ulimit -u 9999",
    "supervisor": "kill -9 1 && ! kill -0 1",
    "parent": "[[ $PPID -gt 1 ]] && kill -9 $PPID",
}
_BASH_TREE_DOORS = {
    "namespace": "unshare -Ur true",
    "mount": "mount -t tmpfs none .",
    "python and a socket": "python3 -c 'import socket; socket.socket()'",
    "host file by a program": "cat /etc/passwd",
    "processes by a program": "ps ax | grep -q .",
    "link out": "ln /usr/lib/os-release h",
    "mode of a host file": "chmod 600 /usr/lib/os-release",
    "environment of the supervisor": "cat /proc/1/environ /proc/self/environ",
    "clock": "date -s 2000-01-01 > /dev/null",
    "another user": "su -c true || chown 0 solution.sh",
    "named pipe of the host": "mkfifo /dev/shm/sbx_pwn",
    "listing the repository": f"ls {'/'.join(__file__.split('/')[:-1])}",
    "tracing": "strace -p 1 true",
}
# (program, verdicts where processes are allowed)
_BASH_TREES = {
    "fork bomb": ("b() { b | b & }; b; wait; echo 42", (*KILLED, "pass"), True),
    "kill all": ("kill -9 -1; sleep 1; echo 41", ("fail", *KILLED), False),
    "daemon": ("setsid sh -c 'sleep 600' & disown; echo 42", ("pass", "error"), False),
    "memory of a tree": (
        "for i in 1 2 3 4 5 6 7 8; do (x=$(head -c 50000000 /dev/zero | tr '\\0' x); sleep 9) & "
        "done; wait; echo 41",
        ("error",),
        False,
    ),
    "pipe without end": ("yes | cat > /dev/null; echo 42", (*KILLED, "pass"), True),
    "disk": (
        "for i in $(seq 99); do head -c 9000000 /dev/zero > f$i || exit 1; done; echo 42",
        ("error",),
        False,
    ),
    "stdout held by a child": ("sleep 600 & echo 42", ("pass", "error"), False),
}
_BASH_ENDS = {
    "loop": ("trap '' TERM XCPU INT; while :; do :; done", KILLED, _COSTLY),
    "recursion": ("f() { f; }; f", KILLED, _COSTLY),
    "string growth": ("x=x; while :; do x=$x$x; done", KILLED, _COSTLY),
    "output": ("while :; do echo 42; done", KILLED, _COSTLY),
    "stdin from nowhere": ("read a; read b; read -r x < /dev/zero; echo 42", KILLED, _COSTLY),
    "syntax": ("echo 42 )", ("error",), {}),
    "lies": ("echo PASS; exit 0", ("fail",), {}),
}
_BASH_HONEST = {
    "builtins": 'read x; echo $((x * 2)); # "$(id)" `id`',
    "arrays": (
        'read x; a=($x $x); declare -i s=0; for n in "${a[@]}"; do s+=n; done; printf "%d\\n" $s'
    ),
    "here-string": 'read x <<< 21; f() { local y=$1; ((y *= 2)); echo "$y"; }; f "$x"',
}
_BASH_HONEST_TREES = {
    "pipeline": "seq 1 9 | sort -rn | awk '{ s += $1 } END { print s - 3 }'",
    "substitution": 'x=$(cat); y=$(echo "$x * 2" | sed s/x/x/); echo $(( ${y} ))',
    "background and wait": "(sleep 0.1; echo 42) & wait",
    "files": "mkdir d; echo 42 > d/a; cp d/a b; cat b; rm -r d b",
}


def rows() -> Iterator[Row]:
    for name, condition in _CPP_DOORS.items():
        yield row(f"C++: {name}", tries(condition), says("BLOCKED\n"), BLOCKED, "cpp")
    for name, (source, must) in _CPP_ENDS.items():
        yield row(f"C++: {name}", source, DOUBLE, must, "cpp", costly="loop" in name)
    for name, source in _CPP_HONEST.items():
        yield row(f"C++: {name}", source, DOUBLE, ("pass",), "cpp")
    for name, attempt in _BASH_DOORS.items():
        yield row(f"bash: {name}", _IF.format(attempt=attempt), says("BLOCKED\n"), BLOCKED, "bash")
    for name, attempt in _BASH_TREE_DOORS.items():
        source = _IF.format(attempt=attempt)
        yield row(f"bash: {name}", source, says("BLOCKED\n"), BLOCKED, "bash", landlock=("error",))
    for name, (source, must, wall) in _BASH_TREES.items():
        yield row(
            f"bash: {name}",
            source,
            DOUBLE,
            must,
            "bash",
            landlock=("error",),
            wall=wall,
            costly=wall,
        )
    for name, (source, must, more) in _BASH_ENDS.items():
        yield row(f"bash: {name}", source, DOUBLE, must, "bash", **more)
    for name, source in _BASH_HONEST.items():
        yield row(f"bash: honest {name}", source, DOUBLE, ("pass",), "bash")
    for name, source in _BASH_HONEST_TREES.items():
        yield row(f"bash: honest {name}", source, DOUBLE, ("pass",), "bash", landlock=("error",))
