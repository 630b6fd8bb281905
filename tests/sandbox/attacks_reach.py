"""Attacks that reach for what is outside: files, network, environment, descriptors, other processes, rights."""

import contextlib
import os
import socket
import sys
from pathlib import Path

from harness import SHORT, check, host_folder, outcome_of, value_of


@check
def host_files_are_not_there():
    with host_folder() as folder:
        secret = folder / "secret"
        secret.write_text("expected values")
        secret.chmod(0o666)
        paths = [str(secret), str(folder), "/etc/passwd", "/etc/hostname", "/proc/self/environ", "/proc/1/mem", "/sys"]
        source = "def attack(paths):\n    import os\n    return [name(os.stat, path) for path in paths]\n"
        assert value_of(source, paths) == ["FileNotFoundError"] * len(paths)


@check
def only_the_listed_folders_exist():
    found = value_of("def attack():\n    import os\n    return os.listdir('/'), os.listdir('/box'), os.getcwd()\n")
    root, box, cwd = found
    interpreter = {Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable))).parts[1]}
    assert set(root) <= {"usr", "lib", "lib64", "jail", "box", "tmp", "dev"} | interpreter and not box and cwd == "/box"


@check
def host_files_are_not_written_or_deleted():
    with host_folder() as folder:
        (folder / "data").write_text("kept")
        (folder / "data").chmod(0o666)
        source = """
def attack(path):
    import posix
    def write(): posix.write(posix.open(path + "/new", posix.O_WRONLY | posix.O_CREAT), b"x")
    return [name(posix.unlink, path + "/data"), name(posix.rmdir, path), name(write)]
"""
        assert value_of(source, str(folder)) == ["FileNotFoundError"] * 3
        assert [entry.name for entry in folder.iterdir()] == ["data"] and (folder / "data").read_text() == "kept"


@check
def everything_but_the_working_folder_is_read_only():
    source = """
def attack():
    import os
    stdlib = os.path.dirname(os.__file__)
    folders = ["/", "/dev", "/jail", "/usr", stdlib, stdlib + "/site-packages", stdlib + "/json"]
    def write(folder): open(folder + "/x", "w").close()
    return [name(write, folder) for folder in folders if os.path.isdir(folder)] + [name(write, "/tmp")]
"""
    *elsewhere, work = value_of(source)
    assert work == "succeeded" and len(elsewhere) >= 4 and set(elsewhere) <= {"OSError", "PermissionError"}


@check
def installed_packages_are_not_there():
    source = """
def attack():
    import importlib.util, os
    names = [n for n in ("numpy", "torch", "pytest", "pip") if importlib.util.find_spec(n)]
    folder = os.path.dirname(os.__file__) + "/site-packages"
    return names, os.listdir(folder) if os.path.isdir(folder) else []
"""
    assert value_of(source) == ([], [])


@check
def no_network_is_reached():
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        udp.bind(("127.0.0.1", 0))
        unix.bind(f"\0lightningrl-{os.getpid()}")
        unix.listen()
        tcp.settimeout(0.2), udp.settimeout(0.2), unix.settimeout(0.2)
        source = """
def attack(tcp, udp, unix):
    import socket
    def datagram():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s: s.sendto(b"secret", ("127.0.0.1", udp))
    return [
        name(socket.create_connection, ("127.0.0.1", tcp), 1), name(datagram),
        name(socket.socket(socket.AF_UNIX).connect, "\\0" + unix), name(socket.create_connection, ("1.1.1.1", 53), 1),
        name(socket.socket, socket.AF_VSOCK), name(socket.socket, socket.AF_NETLINK), name(socket.socket, 38),
    ]
"""
        unix_name = unix.getsockname()[1:].decode()
        answers = value_of(source, tcp.getsockname()[1], udp.getsockname()[1], unix_name)
        assert answers[0] == "ConnectionRefusedError" == answers[2], answers
        assert answers[1] in ("succeeded", "OSError") and set(answers[3:]) == {"OSError"}, answers
        for listener in (tcp, unix):
            with contextlib.suppress(TimeoutError):
                listener.accept()
                raise AssertionError("a connection arrived")
        with contextlib.suppress(TimeoutError):
            raise AssertionError(f"a datagram arrived: {udp.recv(100)}")


@check
def descriptors_are_bounded_and_none_is_inherited():
    with host_folder() as folder:
        (folder / "secret").write_text("secret")
        with open(folder / "secret") as secret:
            os.set_inheritable(secret.fileno(), True)
            source = """
def attack():
    import os, stat
    kinds = []
    for fd in range(64):
        try: mode = os.fstat(fd).st_mode
        except OSError: continue
        kinds.append((fd, stat.S_ISREG(mode)))
    opened = 0
    try:
        while True:
            os.open("/dev/null", 0)
            opened += 1
    except OSError: pass
    return kinds, opened
"""
            kinds, opened = value_of(source)
    assert [fd for fd, _ in kinds] == [0, 1, 2, kinds[-1][0]] and not any(is_file for _, is_file in kinds), kinds
    assert opened == SHORT.open_files - len(kinds)


@check
def killing_parents_and_everyone_does_not_reach_the_host():
    source = "def attack():\n    import os, signal\n    return name(os.kill, 1, signal.SIGKILL), os.getpid() < 10\n"
    assert value_of(source) in (("succeeded", True), ("PermissionError", True))
    for target in ("os.getppid()", "-1", "0"):
        killed = outcome_of(f"def attack():\n    import os\n    os.kill({target}, 9)\n    return 1\n")
        assert killed.status in ("ok", "crashed"), killed


@check
def the_environment_is_empty():
    os.environ["LIGHTNINGRL_SECRET"] = "token"
    try:
        names = value_of("def attack():\n    import os\n    return sorted(os.environ)\n")
    finally:
        del os.environ["LIGHTNINGRL_SECRET"]
    assert set(names) == {"HOME", "LANG", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "PATH", "PWD", "PYTHONHASHSEED"}


@check
def there_is_no_way_to_more_rights():
    source = """
def attack():
    import ctypes, os, resource
    libc = ctypes.CDLL(None, use_errno=True)
    new_user = 0x10000000
    def raise_limit(): resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))
    return {
        "ids": (os.getresuid(), os.getresgid(), os.getgroups()),
        "setuid": name(os.setuid, 0), "limit": name(raise_limit), "chroot": name(os.chroot, "/box"),
        "unshare": libc.unshare(new_user), "ptrace": libc.ptrace(0, 0, 0, 0),
        "clone": libc.syscall(56, new_user | 17, 0, 0, 0, 0) if os.uname().machine == "x86_64" else -1,
        "clone3": libc.syscall(435, 0, 0), "mount": libc.mount(b"x", b"/box", b"tmpfs", 0, 0),
        "no_new_privs": libc.prctl(39, 0, 0, 0, 0), "core": resource.getrlimit(resource.RLIMIT_CORE),
    }
"""
    facts = value_of(source)
    uids, gids, groups = facts["ids"]
    assert len(set(uids + gids)) == 1 and (uids[0] == 65534 or 61_184 <= uids[0] < 65_520), facts
    assert set(groups) <= {65534}, facts
    assert facts["setuid"] in ("PermissionError", "OSError") and facts["limit"] in ("ValueError", "PermissionError")
    assert facts["chroot"] == "PermissionError" and facts["no_new_privs"] == 1 and facts["core"] == (0, 0)
    assert [facts[key] for key in ("unshare", "ptrace", "clone", "clone3", "mount")] == [-1] * 5, facts
