#!/usr/bin/env bash
# A Slurm cluster on this host, for tests: a controller and two node daemons. Needs slurm-wlm, munge, and to be root.
#
#   tests/slurm.sh start FOLDER     writes FOLDER/slurm.conf, linked from /etc/slurm, and starts the daemons
#   tests/slurm.sh kill FOLDER one  ends a node's daemon and its jobs, as a crash would
#   tests/slurm.sh hide FOLDER one DIR    starts a node's daemon again where DIR is empty, as on a node that lacks it
#   tests/slurm.sh stop FOLDER
set -euo pipefail
what=$1 folder=$2
conf=/etc/slurm/slurm.conf # jobs look there

case "$what" in
    start)
        mkdir -p "$folder"/{state,one,two} /etc/slurm
        if [ -e "$conf" ] && [ ! -L "$conf" ]; then
            echo "error: this host has a Slurm already ($conf)" >&2
            exit 1
        fi
        ln -sfn "$folder/slurm.conf" "$conf"
        host=$(hostname -s)
        cores=$(nproc --all) # without it, OMP_NUM_THREADS counts
        memory=$(awk '/MemTotal/ { print int($2 / 1024 * 0.9) }' /proc/meminfo)
        cat >"$folder/slurm.conf" <<TEXT
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=16817
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdPidFile=$folder/%n/slurmd.pid
SlurmdLogFile=$folder/%n/slurmd.log
SlurmdSpoolDir=$folder/%n
SlurmdTimeout=10
MinJobAge=600
ReturnToService=2
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
KillWait=1
EnforcePartLimits=ALL
SchedulerParameters=sched_interval=1,batch_sched_delay=0
NodeName=one NodeHostname=$host NodeAddr=127.0.0.1 Port=16821 CPUs=$cores RealMemory=$memory
NodeName=two NodeHostname=$host NodeAddr=127.0.0.1 Port=16822 CPUs=$cores RealMemory=$memory
PartitionName=main Nodes=one,two Default=YES MaxTime=INFINITE OverSubscribe=NO State=UP
TEXT
        dd if=/dev/urandom of="$folder/munge.key" bs=128 count=1 status=none
        chmod 400 "$folder/munge.key"
        chmod 755 "$folder"
        munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" --pid-file="$folder/munged.pid" \
            --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
        slurmctld
        slurmd -N one
        slurmd -N two
        for _ in $(seq 60); do
            if [ "$(sinfo -h -N -o %t | sort -u)" = idle ]; then exit 0; fi
            sleep 0.5
        done
        echo "error: the nodes did not come up: $(sinfo -h -N -o '%N %t' | tr '\n' ' ')" >&2
        exit 1
        ;;
    kill)
        for job in $(squeue -h -w "$3" -o %A); do
            for step in $(pgrep -f "slurmstepd: \\[$job\\."); do
                # shellcheck disable=SC2046 # a list
                kill -KILL "$step" $(pgrep -P "$step") || true
            done
        done
        kill -KILL "$(cat "$folder/$3/slurmd.pid")"
        ;;
    hide)
        kill "$(cat "$folder/$3/slurmd.pid")" 2>/dev/null || rm -f "$folder/$3/slurmd.pid" # it may have crashed
        while [ -e "$folder/$3/slurmd.pid" ]; do sleep 0.2; done
        unshare --mount sh -c 'mount -t tmpfs none "$1" && exec slurmd -N "$2"' hide "$4" "$3"
        ;;
    stop)
        for file in "$folder"/*/slurmd.pid "$folder/slurmctld.pid" "$folder/munged.pid"; do
            if [ -f "$file" ]; then kill "$(cat "$file")" 2>/dev/null || true; fi
        done
        ;;
esac
