#!/usr/bin/env bash
# A real Slurm with two nodes (n1, n2; one CPU each) on this machine: cluster.sh start|stop FOLDER. Debian or Ubuntu, root.
# Another Slurm's configuration stays as it is; SLURM_CONF would not do, as Snakemake's jobs drop it before srun.
set -euo pipefail
action=$1 folder=$2
configuration=/etc/slurm/slurm.conf mark="# written by tests/slurm/cluster.sh, which removes it"

ours() {
  [ "$(head -n 1 "$configuration" 2>/dev/null)" = "$mark" ]
}

start() {
  if [ -e "$configuration" ] && ! ours; then
    echo "$configuration is there already, of another Slurm" >&2
    return 1
  fi
  if ! command -v slurmctld munged >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge >/dev/null
  fi
  mkdir -p "$folder"/{state,n1,n2} "${configuration%/*}" /run/munge
  local memory
  memory=$(awk '/MemAvailable/ {print int($2 / 1024 / 2 * 0.9)}' /proc/meminfo)
  cat >"$configuration" <<END
$mark
ClusterName=test
SlurmctldHost=$(hostname)(127.0.0.1)
AuthType=auth/munge
# A job that is queued again waits as long as its credentials hold: 120 s unless said otherwise.
AuthInfo=cred_expire=15
SchedulerParameters=bf_interval=2,batch_sched_delay=0
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
SlurmUser=root
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdPidFile=$folder/%n.pid
SlurmdSpoolDir=$folder/%n
SlurmdLogFile=$folder/%n.log
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
NodeName=n[1-2] NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=[17001-17002] CPUs=1 RealMemory=$memory State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
  chown munge:munge /run/munge
  [ -f /etc/munge/munge.key ] || mungekey -c
  pgrep -x munged >/dev/null || setsid runuser -u munge -- munged --force
  setsid slurmctld -c
  sleep 1
  setsid slurmd -N n1
  setsid slurmd -N n2
  for _ in $(seq 20); do
    [ "$(sinfo -h -o %D -t idle 2>/dev/null)" = 2 ] && return
    sleep 1
  done
  echo "the two nodes did not become idle within 20 s; see $folder/*.log" >&2
  return 1
}

stop() {
  scancel --user root 2>/dev/null || true
  # A job that ignores SIGTERM is killed after 30 s; without slurmd it would stay.
  for _ in $(seq 60); do
    [ -z "$(squeue -h 2>/dev/null)" ] && break
    sleep 1
  done
  local pid
  for name in n1 n2 slurmctld; do
    pid=$(cat "$folder/$name.pid" 2>/dev/null) || continue
    kill "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
  done
  if ours; then rm "$configuration"; fi
}

"$action"
