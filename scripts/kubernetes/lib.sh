# Read by the scripts beside it: where things lie, which versions they are, how a step is timed. Does nothing by itself.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

cache=$(realpath -m "${QUORATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/quorate}")
# The version of Kubernetes is said once, in the module that it is built from.
kubernetes=$(awk '$1 == "k8s.io/kubernetes" {print $2}' "$here/modules/kubernetes/go.mod")
bin=$cache/bin
# That of the programs and their images.
release=$(awk -F'"' '/^version = /{print $2; exit}' "$root/Cargo.toml")

say() { echo "$*" >&2; }
die() { say "error: $*"; exit 1; }

# step TITLE COMMAND…: runs it quietly and says how long it took; what it printed is shown only if it failed.
step() {
    local step_title=$1 step_log step_started step_code=0
    shift
    step_log=$(mktemp)
    step_started=$(date +%s.%N)
    # In the background, because bash forgets `set -e` in whatever stands before `||`.
    "$@" >"$step_log" 2>&1 &
    wait $! || step_code=$?
    awk -v title="$step_title" -v from="$step_started" -v to="$(date +%s.%N)" -v code="$step_code" \
        'BEGIN { printf "  %-40s %6.1f s%s\n", title, to - from, code ? "  FAILED" : "" }' >&2
    [ "$step_code" -eq 0 ] || cat "$step_log" >&2
    rm -f "$step_log"
    return "$step_code"
}

# daemon COMMAND…: becomes that command, in a session of its own, and holds nothing that the caller has open: a lock would be held as long.
daemon() {
    local open
    for open in /proc/"$BASHPID"/fd/*; do
        open=${open##*/}
        # 255 is bash's own.
        [ "$open" -le 2 ] || [ "$open" -eq 255 ] || eval "exec $open>&-"
    done
    exec setsid "$@"
}

# wait_for SECONDS WHAT COMMAND…: until the command succeeds.
wait_for() {
    local seconds=$1 what=$2 deadline
    shift 2
    deadline=$(($(date +%s) + seconds))
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$deadline" ] || die "$what did not happen within $seconds s"
        sleep 0.2
    done
}

# end_process PIDFILE PROGRAM: asks the process to end, if it still is that program, and waits until it has.
end_process() {
    local pid
    pid=$(cat "$1" 2>/dev/null) || return 0
    if [ "$(basename "$(readlink "/proc/$pid/exe" 2>/dev/null)")" = "$2" ]; then
        kill "$pid" 2>/dev/null || :
        for _ in $(seq 100); do
            [ -d "/proc/$pid" ] || break
            sleep 0.1
        done
        [ ! -d "/proc/$pid" ] || kill -9 "$pid" 2>/dev/null || :
    fi
    rm -f "$1"
}

# --- the kind cluster: state of a run, the engine of our own when there is one, and the namespace that it lives in

run=$cache/run/kind
namespace=quorate-kind
# Addresses of the range for benchmarks, which nobody routes: ours, and that of the namespace at the other end of the cable.
host_address=198.18.77.1
kind_address=198.18.77.2
export KIND_CLUSTER_NAME=quorate

own_engine() { [ -e "$run/docker.pid" ]; }

# Whether the cluster runs.
running() { [ -e "$run/kubeconfig" ] && "$bin/kubectl" --kubeconfig "$run/kubeconfig" get --raw /readyz >/dev/null 2>&1; }

# inside COMMAND…: with kind, kubectl and docker as the cluster needs them.
inside() {
    local -x PATH=$bin:$PATH KUBECONFIG=$run/kubeconfig
    if own_engine; then
        PATH=$bin:$cache/engine/usr/bin:$cache/engine/usr/sbin:$PATH
        local -x DOCKER_HOST=unix://$run/docker.sock
        # Not `ip netns exec`, which mounts /sys anew and so hides the cgroups.
        nsenter --net="/run/netns/$namespace" "$@"
    else
        "$@"
    fi
}
