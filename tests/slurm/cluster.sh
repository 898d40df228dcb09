#!/usr/bin/env bash
# A real Slurm on this one machine, for the tests: munged, slurmctld and slurmd with one node of 2 CPUs.
#
#   cluster.sh start FOLDER    starts it; prints what to export; configuration, state and logs lie in FOLDER
#   cluster.sh stop FOLDER     ends the processes that start began, by their ids
#
# Needs root and Debian's slurm-wlm. Nothing outside FOLDER is changed, but for a line in /etc/hosts where the host's
# short name cannot be resolved. FOLDER must lie where the user munge can enter, such as directly in /tmp.
set -euo pipefail

usage() { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -eq 2 ] || usage
command=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
host=$(hostname -s)

wait_for() { # wait_for SECONDS COMMAND...
    local end=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { echo "cluster.sh: timed out: $*" >&2; return 1; }
        sleep 0.2
    done
}

make_munge() { # munged refuses folders that others could write to, and runs as its own user
    local munge=$folder/munge
    mkdir -p "$munge"
    chmod 755 "$folder"
    dd if=/dev/urandom of="$munge/key" bs=1024 count=1 status=none
    chown -R munge: "$munge"
    chmod 755 "$munge"
    chmod 400 "$munge/key"
}

write_config() { # write_config PORT_CTLD PORT_D
    cat > "$folder/slurm.conf" <<CONF
ClusterName=uvit
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# cred_expire: a requeued job waits so many seconds before it starts again; 5 is the least
AuthInfo=socket=$folder/munge/socket,cred_expire=5
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
JobRequeue=1
KillWait=30
MinJobAge=600
ReturnToService=2
SlurmctldPort=$1
SlurmdPort=$2
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
}

free_ports() {
    python3 - <<'PY'
import socket
sockets = [socket.socket() for _ in range(2)]
for s in sockets:
    s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))
PY
}

start() {
    getent hosts "$host" >/dev/null || echo "127.0.0.1 $host" >> /etc/hosts
    mkdir -p "$folder/state" "$folder/spool"
    make_munge
    # shellcheck disable=SC2046 # two numbers
    write_config $(free_ports)
    export SLURM_CONF=$folder/slurm.conf
    # as its own user, in the foreground: then its id is known
    setpriv --reuid munge --regid munge --clear-groups munged --foreground \
        --key-file "$folder/munge/key" --socket "$folder/munge/socket" --pid-file "$folder/munge/pid" \
        --seed-file "$folder/munge/seed" --log-file "$folder/munge/log" > "$folder/munged.out" 2>&1 &
    echo $! > "$folder/munged.started"
    wait_for 20 test -S "$folder/munge/socket"
    slurmctld -D > "$folder/slurmctld.out" 2>&1 &
    echo $! > "$folder/slurmctld.started"
    wait_for 30 scontrol ping
    slurmd -D -N "$host" > "$folder/slurmd.out" 2>&1 &
    echo $! > "$folder/slurmd.started"
    wait_for 30 sh -c "sinfo --noheader --format=%T | grep -q idle"
    echo "export SLURM_CONF=$folder/slurm.conf"
}

stop() {
    local name id
    for name in slurmd slurmctld munged; do
        [ -f "$folder/$name.started" ] || continue
        id=$(cat "$folder/$name.started")
        kill "$id" 2>/dev/null || true
        for _ in $(seq 100); do kill -0 "$id" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$id" 2>/dev/null || true
        rm -f "$folder/$name.started"
    done
}

give_up() { # give_up EXIT_CODE: says why the cluster did not start, and leaves nothing running
    [ "$1" -eq 0 ] && return
    tail -n 5 "$folder"/*.out "$folder"/*.log "$folder"/munge/log >&2 2>/dev/null || true
    stop
}

case $command in
    start) trap 'give_up $?' EXIT; start ;;
    stop) stop ;;
    *) usage ;;
esac
