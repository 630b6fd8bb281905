#!/usr/bin/env bash
# A Slurm of one node in a folder: tests/slurm/cluster.sh start|stop FOLDER
# munged, slurmctld and slurmd of the distribution's packages, as the user who calls it, root or not; no systemd, nothing
# under /etc. The node pretends to have 4 CPUs and 4 H100s, which are counted and bound like real ones; jobs of the partition
# gpu get as many CPUs of those as the machine has: more at a time would only make all of them slower. Afterwards:
#   export SLURM_CONF=FOLDER/slurm.conf PATH=FOLDER/bin:$PATH
set -euo pipefail
verb=${1:?start or stop}
mkdir -p "${2:?a folder}"
folder=$(cd "$2" && pwd)
export SLURM_CONF=$folder/slurm.conf PATH=$PATH:/usr/sbin:/sbin
node=$(hostname -s)

configure() {
    local port=$1 cores
    cores=$(($(nproc) < 2 ? 2 : $(nproc)))
    mkdir -p "$folder"/{bin,log,run,spool,state}
    chmod 755 "$folder" "$folder/run" # munged refuses a socket in a folder that others cannot enter
    (umask 077 && head -c 128 /dev/urandom >"$folder/munge.key")
    # Character devices that are always there stand for GPUs: a count without devices would be refused.
    cat >"$folder/gres.conf" <<CONF
AutoDetect=off
Name=gpu Type=h100 File=/dev/null
Name=gpu Type=h100 File=/dev/zero
Name=gpu Type=h100 File=/dev/full
Name=gpu Type=h100 File=/dev/random
CONF
    # MinJobAge: finished jobs must be seen by squeue, there is no accounting. KillWait: from SIGTERM to SIGKILL.
    # config_overrides: the CPUs and the memory are those written here, whatever the machine has.
    cat >"$folder/slurm.conf" <<CONF
ClusterName=tests
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/run/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
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
NodeName=$node NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 Gres=gpu:h100:4 State=UNKNOWN
PartitionName=cpu Nodes=$node Default=YES MaxTime=60 State=UP
PartitionName=gpu Nodes=$node MaxCPUsPerNode=$cores MaxTime=60 State=UP
CONF
    # Snakemake's step inside a job drops SLURM_CONF before it calls srun, which then looks under /etc/slurm.
    printf '#!/bin/sh\nSLURM_CONF=%s exec %s "$@"\n' "$folder/slurm.conf" "$(command -v srun)" >"$folder/bin/srun"
    chmod +x "$folder/bin/srun"
}

start() {
    configure $((20000 + RANDOM % 10000))
    # munged's own folders belong to its package's user: everything is given here.
    munged --force --key-file="$folder/munge.key" --socket="$folder/run/munge.socket" --seed-file="$folder/run/munge.seed" \
        --pid-file="$folder/run/munged.pid" --log-file="$folder/log/munged.log" --num-threads=2
    slurmctld
    slurmd
    for _ in $(seq 60); do
        if timeout 5 srun --quiet --immediate=2 true 2>/dev/null; then return; fi
        sleep 0.25
    done
    echo "the test Slurm did not start; the ends of its logs:" >&2
    tail -n 20 "$folder"/log/*.log >&2
    stop
    exit 1
}

stop() {
    local daemon pid
    for daemon in slurmd slurmctld munged; do
        pid=$(cat "$folder/run/$daemon.pid" 2>/dev/null) || continue
        kill "$pid" 2>/dev/null || continue
        for _ in $(seq 40); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -9 "$pid" 2>/dev/null || true
    done
}

"$verb"
