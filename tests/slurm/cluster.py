#!/usr/bin/env python3
"""A Slurm of two nodes in a folder, for as long as this program runs: `tests/slurm/cluster.py FOLDER`.

munged, slurmctld and two slurmd of the distribution's packages, as the user who calls it, root or not; no systemd,
nothing under /etc. Each node pretends to have 4 CPUs and 4 H100s, which are counted and bound like real ones; jobs of
the partition gpu get about as many CPUs of those as the machine has: more at a time would only make all of them slower.

It prints `ready` once a job has run, and then reads its standard input. When that ends - by Ctrl-D, or because whoever
started it was killed - or on Ctrl-C or SIGTERM, all jobs and daemons are killed; nothing stays. That is so where this
program itself is killed in an instant, too: a second process of it, the guardian, has started everything. To use it
meanwhile:
`export SLURM_CONF=FOLDER/slurm.conf PATH=FOLDER/bin:$PATH`.
"""

import contextlib
import ctypes
import getpass
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

SEARCHED = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
NEEDED = ("munged", "slurmctld", "slurmd", "srun")
START_S = 300
"""For the daemons to run a first job, on a machine however busy."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
NODES = ("one", "two")
"""Both are this machine: a slurmd tells by its name (`-N`) which of them it is, and each has a port of its own."""
# Character devices that are always there stand for GPUs: a count without devices would be refused.
GRES = "AutoDetect=off\n" + "".join(
    f"NodeName={node} Name=gpu Type=h100 File=/dev/{name}\n"
    for node in NODES
    for name in ("null", "zero", "full", "random")
)
# MinJobAge: finished jobs must be seen by squeue, there is no accounting. KillWait: from SIGTERM to SIGKILL.
# config_overrides: the CPUs and the memory are those written here, whatever the machine has.
CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/run/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
PlugStackConfig=/dev/null
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=5,batch_sched_delay=0
SlurmdParameters=config_overrides
EnforcePartLimits=ALL
ReturnToService=2
MinJobAge=3600
KillWait=5
GresTypes=gpu
{nodes}PartitionName=cpu Nodes=one Default=YES MaxTime=600 State=UP
PartitionName=gpu Nodes=one,two MaxCPUsPerNode={cores} MaxTime=600 State=UP
"""
NODE = "NodeName={} NodeHostname={} NodeAddr=127.0.0.1 Port={} CPUs=4 RealMemory=16000 Gres=gpu:h100:4 State=UNKNOWN\n"


def configure(folder: Path) -> None:
    for name in ("bin", "log", "run", "state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir(exist_ok=True)
    for path in (folder, folder / "run"):  # munged refuses a socket in a folder that others cannot enter
        path.chmod(0o755)
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(128))
    (folder / "gres.conf").write_text(GRES)
    host, ports = socket.gethostname().split(".")[0], free_ports(1 + len(NODES))
    nodes = "".join(NODE.format(node, host, port) for node, port in zip(NODES, ports[1:], strict=True))
    facts = {"folder": folder, "ports": ports, "host": host, "user": getpass.getuser(), "nodes": nodes}
    facts["cores"] = max(2, os.cpu_count() or 2) // len(NODES)
    (folder / "slurm.conf").write_text(CONFIG.format(**facts))
    # Snakemake's step inside a job drops SLURM_CONF before it calls srun, which then looks under /etc/slurm.
    for name in ("srun", "squeue"):
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which(name)} "$@"\n')
        program.chmod(0o755)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that the system itself hands out."""
    with contextlib.ExitStack() as held:
        found: list[int] = []
        while len(found) < count:
            port = random.SystemRandom().randrange(20_000, 32_000)
            tried = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                tried.bind(("", port))
                found.append(port)
        return found


def prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def end_with_parent(number: int) -> None:
    """In a child: the kernel sends it this signal when its parent ends, however that ends."""
    prctl(PR_SET_PDEATHSIG, number)


def start(folder: Path) -> list[subprocess.Popen]:
    """The daemons; they take no signal from the terminal."""
    run, log = folder / "run", folder / "log"
    munge = ["--foreground", "--force", f"--key-file={folder}/munge.key", f"--socket={run}/munge.socket"]
    munge += [f"--seed-file={run}/munge.seed", f"--pid-file={run}/munged.pid", f"--log-file={log}/munged.log"]
    daemons, daemon = [], partial(end_with_parent, signal.SIGKILL)
    computing = [["slurmd", "-D", "-N", node] for node in NODES]
    for command in (["munged", *munge, "--num-threads=2"], ["slurmctld", "-D"], *computing):
        command = [str(shutil.which(command[0], path=SEARCHED)), *command[1:]]
        with open(log / f"{Path(command[0]).name}.out", "a") as output:
            channels = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            daemons.append(subprocess.Popen(command, start_new_session=True, preexec_fn=daemon, **channels))
        while not (run / "munge.socket").exists() and daemons[0].poll() is None:  # munged, which the others need
            time.sleep(0.02)
    return daemons


def is_ready(daemons: list[subprocess.Popen]) -> bool:
    """Wait until a job runs on all nodes; False when a daemon has ended (another program took its port), or nothing
    ever runs."""
    deadline = time.monotonic() + START_S
    while all(daemon.poll() is None for daemon in daemons) and time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            command = ["srun", "--quiet", "--immediate=5", "--partition=gpu", f"--nodes={len(NODES)}", "true"]
            if subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30).returncode == 0:
                return True
        time.sleep(0.25)
    return False


def collect() -> None:
    """Collects what has ended by itself, of all that came from here."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def end_everything() -> None:
    """Kill what has come from this process, however it was detached: as their reaper this process inherits it all.

    The kernel's list of children may miss some while others end, so the end is when there is no child to wait for.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    with contextlib.suppress(ChildProcessError):
        while True:
            for pid in map(int, children.read_text().split()):
                os.kill(pid, signal.SIGKILL)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            time.sleep(0.01)


def main(folder: Path) -> None:
    """Passes signals on to the guardian, which does everything, and waits for it."""
    parent, guardian = os.getpid(), os.fork()
    if guardian:
        on_signals(lambda number, _: os.kill(guardian, number))
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(guardian, 0)[1]))
    on_signals(lambda *_: sys.exit(0))
    end_with_parent(signal.SIGTERM)
    if os.getppid() == parent:
        guard(folder)


def guard(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        for _ in range(3):
            configure(folder)
            if is_ready(start(folder)):
                signal.signal(signal.SIGCHLD, lambda *_: collect())
                sys.stdout.write("ready\n")
                sys.stdout.flush()
                sys.stdin.read()
                return
            end_everything()
        ends = [f"{path}:\n{path.read_text(errors='replace')[-2000:]}\n" for path in sorted((folder / "log").iterdir())]
        sys.exit("the test Slurm did not start; the ends of its logs:\n" + "".join(ends))
    finally:
        on_signals(signal.SIG_IGN)
        end_everything()


def on_signals(action) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, action)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
