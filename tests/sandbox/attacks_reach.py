"""Attacks that reach for what is outside: files, network, environment, descriptors, other processes, rights."""

import operator
import os
import select
import socket
import subprocess
import sys
from pathlib import Path

from harness import SHORT, check, host_folder, level, outcome_of, value_of


@check
def host_files_are_not_read():
    with host_folder() as folder:
        secret = folder / "secret"
        secret.write_text("expected values")
        secret.chmod(0o666)
        paths = [str(secret), str(folder), "/etc/passwd", "/etc/hostname", "/proc/self/environ", "/proc/1/mem", "/sys"]
        source = """
def attack(paths):
    import os
    def read(path): return os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1)
    return [name(read, path) for path in paths], [name(os.stat, path) for path in paths]
"""
        read, found = value_of(source, paths)
        assert set(read) <= {"FileNotFoundError", "PermissionError"}, read
        if level().hides_names:
            assert found == ["FileNotFoundError"] * len(paths)


@check
def other_processes_are_not_looked_into():
    source = """
def attack(judge):
    import os
    found = []
    for pid in ("self", os.getppid(), judge, 1):
        for what in ("mem", "environ", "cmdline", "maps", "fd", "root/etc/passwd", "cwd/x"):
            path = f"/proc/{pid}/{what}"
            found.append(name(os.listdir, path) if what == "fd" else name(open, path, "rb"))
        found += [name(os.readlink, f"/proc/{pid}/exe")] if pid != "self" else []
    return found
"""
    assert set(value_of(source, os.getpid())) <= {"FileNotFoundError", "PermissionError"}


@check
def only_the_interpreter_and_the_working_folder_are_listed():
    folders, cwd = value_of("""
def attack():
    import os
    def listing(path):
        try: return os.listdir(path)
        except OSError: return None
    return {path: listing(path) for path in ("/", "/tmp", "/box", "/home", "/root", "/etc", "/dev")}, os.getcwd()
""")
    work = level().work_folder
    assert cwd == (work or "/")
    if level().hides_names:
        interpreter = {Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable))).parts[1]}
        assert set(folders["/"]) <= {"usr", "lib", "lib64", "jail", "box", "tmp", "dev"} | interpreter
        assert folders["/box"] == [] == folders["/tmp"]
    else:
        assert {path: names for path, names in folders.items() if names is not None} == ({work: []} if work else {})


@check
def host_files_are_not_written_deleted_or_marked():
    with host_folder() as folder:
        data = folder / "data"
        data.write_text("kept")
        data.chmod(0o666)
        if os.getuid() == 0:  # as root the jail has another uid: its own file is the harder case
            os.chown(data, 65_000, 65_000)
        before = data.stat()
        source = """
def attack(folder):
    import os, posix
    path = folder + "/data"
    def write(): posix.write(posix.open(folder + "/new", posix.O_WRONLY | posix.O_CREAT), b"x")
    def append(): posix.open(path, posix.O_WRONLY | posix.O_APPEND)
    def empty(): posix.open(path, posix.O_WRONLY | posix.O_TRUNC)
    return [
        name(posix.unlink, path), name(posix.rmdir, folder), name(write), name(append), name(empty),
        name(posix.truncate, path, 0), name(posix.rename, path, folder + "/b"), name(posix.chmod, path, 0o600),
        name(posix.utime, path), name(posix.chown, path, -1, -1), name(posix.setxattr, path, "user.x", b"x"),
        name(posix.link, path, folder + "/c"), name(posix.symlink, path, folder + "/d"),
        name(posix.mkdir, folder + "/e"), name(posix.mkfifo, folder + "/f"), name(posix.mknod, folder + "/g"),
    ]
"""
        found = value_of(source, str(folder))
        assert set(found) == {"FileNotFoundError" if level().hides_names else "PermissionError"}, found
        assert [entry.name for entry in folder.iterdir()] == ["data"] and data.read_text() == "kept"
        facts = operator.attrgetter("st_mode", "st_mtime_ns", "st_ctime_ns")
        assert facts(data.stat()) == facts(before)


@check
def links_do_not_lead_out_of_the_working_folder():
    source = """
def attack():
    import os
    made = name(os.symlink, "/etc/passwd", "a"), name(os.symlink, "/", "b"), name(os.link, os.__file__, "c")
    return made, [name(open, path) for path in ("a", "b/etc/passwd", "../etc/passwd", "b/etc/hostname")]
"""
    made, opened = value_of(source)
    if level().work_folder is None:
        assert set(made) == {"PermissionError"}, made
    else:
        assert made[:2] == ("succeeded",) * 2 and made[2] in ("OSError", "PermissionError"), made
    assert set(opened) <= {"FileNotFoundError", "PermissionError"}, opened


@check
def programs_are_not_run_and_devices_are_four():
    source = """
def attack():
    import os
    programs = ["/bin/su", "/usr/bin/passwd", "/bin/mount", "/bin/sh", "/bin/true"]
    paths = "mem kmsg tty ptmx fuse kvm shm/x nvidia0 nvidiactl vda sda pts/0 full".split()
    made = [name(os.mknod, "node", 0o20666, os.makedev(1, 1)), name(os.mknod, "block", 0o60666, os.makedev(8, 0))]
    opened = [name(os.open, "/dev/" + path, os.O_RDWR | os.O_CREAT) for path in paths]
    zero = os.open("/dev/zero", os.O_RDONLY), os.open("/dev/urandom", os.O_RDONLY), os.open("/dev/null", os.O_RDWR)
    return [name(os.execv, path, [path]) for path in programs], made + opened, os.read(zero[0], 2) == bytes(2)
"""
    ran, opened, has_zero = value_of(source)
    assert set(ran) <= {"FileNotFoundError", "PermissionError"}, ran
    assert has_zero and set(opened) <= {"FileNotFoundError", "PermissionError", "OSError"}, opened


@check
def everything_but_the_working_folder_is_read_only():
    source = """
def attack(work):
    import os
    stdlib = os.path.dirname(os.__file__)
    folders = ["/", "/dev", "/jail", "/usr", "/var/tmp", "/dev/shm"]
    folders += [stdlib, stdlib + "/site-packages", stdlib + "/json"]
    def write(folder): open(folder + "/x", "w").close()
    return [name(write, folder) for folder in folders if os.path.isdir(folder)], name(write, work or "/tmp")
"""
    elsewhere, work = value_of(source, level().work_folder)
    assert work == ("succeeded" if level().work_folder else "PermissionError")
    assert len(elsewhere) >= 4 and set(elsewhere) <= {"OSError", "PermissionError"}


@check
def installed_packages_are_not_there():
    source = """
def attack():
    import importlib.util, os
    names = [n for n in ("numpy", "torch", "pytest", "pip") if importlib.util.find_spec(n)]
    folder, read = os.path.dirname(os.__file__) + "/site-packages", []
    listed = os.listdir(folder) if os.path.isdir(folder) else []
    for place, _, files in os.walk(folder):
        read += [file for file in files if name(open, place + "/" + file) == "succeeded"]
    return names, listed, read
"""
    names, listed, read = value_of(source)
    assert names == read == [] and (not listed or (not level().hides_names and not level().own_pids))


@check
def no_network_is_reached_but_a_pair_within_the_process():
    with (
        host_folder() as folder,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as service,
    ):
        udp.bind(("127.0.0.1", 0))
        unix.bind(f"\0lightningrl-{os.getpid()}")
        service.bind(str(folder / "socket"))
        (folder / "socket").chmod(0o777)
        for listener in (unix, service):
            listener.listen()
        source = """
def attack(tcp, udp, unix, path):
    import asyncio, socket
    one, other = socket.socketpair()
    one.send(b"x")
    async def wait(): await asyncio.sleep(0); return other.recv(1)
    def datagram():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s: s.sendto(b"secret", ("127.0.0.1", udp))
    def connect(address):
        with socket.socket(socket.AF_UNIX) as s: s.connect(address)
    def pair(): socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b"secret", path)
    return [
        name(socket.create_connection, ("127.0.0.1", tcp), 1), name(datagram),
        name(connect, "\\0" + unix), name(connect, path), name(pair),
        name(socket.create_connection, ("1.1.1.1", 53), 1),
        name(socket.socket, socket.AF_VSOCK), name(socket.socket, socket.AF_NETLINK), name(socket.socket, 38),
    ], asyncio.run(wait())
"""
        unix_name = unix.getsockname()[1:].decode()
        ports = tcp.getsockname()[1], udp.getsockname()[1]
        found, within = value_of(source, *ports, unix_name, str(folder / "socket"))
        assert within == b"x", "a pair of streams within the process works"
        if level().hides_names:
            assert found[0] == "ConnectionRefusedError" == found[2] and found[3] == "FileNotFoundError", found
            assert found[1] in ("succeeded", "OSError") and set(found[5:]) == {"OSError"}, found
        else:
            assert set(found[:6]) == {"PermissionError"} and set(found[6:]) <= {"PermissionError", "OSError"}, found
        assert select.select([tcp, udp, unix, service], [], [], 0.2)[0] == [], "something arrived"


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
    if level().own_pids:
        assert value_of(source) in (("succeeded", True), ("PermissionError", True))
    for target in ("os.getppid()", "-1", "0"):
        killed = outcome_of(f"def attack():\n    import os\n    os.kill({target}, 9)\n    return 1\n")
        assert killed.status in ("ok", "crashed"), killed
        if not level().own_pids:
            assert killed.calls[0].message.startswith("PermissionError"), killed


@check
def the_judge_cannot_be_signalled_slowed_or_limited():
    victim = subprocess.Popen(["sleep", "60"])
    try:
        source = """
def attack(pid, own_pids):
    import ctypes, fcntl, os, resource, signal
    libc = ctypes.CDLL(None, use_errno=True)
    answers = [name(os.kill, pid, 9), name(resource.prlimit, pid, resource.RLIMIT_CPU, (1, 1))]
    answers += [name(os.setpriority, os.PRIO_PROCESS, pid, 19), name(os.sched_setaffinity, pid, {0})]
    read_end, write_end = os.pipe()
    answers += [name(fcntl.fcntl, read_end, 8, pid), name(os.pidfd_open, pid)] if not own_pids else []
    return answers, libc.ptrace(16, pid, 0, 0), libc.process_vm_readv(pid, 0, 0, 0, 0, 0)
"""
        answers, ptrace, memory = value_of(source, victim.pid, level().own_pids)
        assert set(answers) <= {"PermissionError", "ProcessLookupError"} and ptrace == memory == -1, answers
        nice, own_nice = (os.getpriority(os.PRIO_PROCESS, pid) for pid in (victim.pid, 0))
        assert victim.poll() is None and nice == own_nice
    finally:
        victim.kill()
        victim.wait()


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
        "setuid": name(os.setuid, 0), "limit": name(raise_limit), "chroot": name(os.chroot, "."),
        "unshare": libc.unshare(new_user), "ptrace": libc.ptrace(0, 0, 0, 0),
        "clone": libc.syscall(56, new_user | 17, 0, 0, 0, 0) if os.uname().machine == "x86_64" else -1,
        "clone3": libc.syscall(435, 0, 0), "mount": libc.mount(b"x", b"/tmp", b"tmpfs", 0, 0),
        "no_new_privs": libc.prctl(39, 0, 0, 0, 0), "core": resource.getrlimit(resource.RLIMIT_CORE),
    }
"""
    facts = value_of(source)
    uids, gids, groups = facts["ids"]
    assert len(set(uids + gids)) == 1 and uids[0] in (65534, *range(61_184, 65_520), os.getuid() or -1), facts
    # Groups cannot be given up without namespaces or root: those of the judge's user stay, and open nothing.
    assert set(groups) <= {65534} | (set() if level().own_pids or os.getuid() == 0 else set(os.getgroups())), facts
    assert facts["setuid"] in ("PermissionError", "OSError") and facts["limit"] in ("ValueError", "PermissionError")
    assert facts["chroot"] == "PermissionError" and facts["no_new_privs"] == 1 and facts["core"] == (0, 0)
    assert [facts[key] for key in ("unshare", "ptrace", "clone", "clone3", "mount")] == [-1] * 5, facts
