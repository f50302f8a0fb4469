# Read by the scripts beside it: where things lie, which versions they are, how a step is timed. Does nothing by itself.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

cache=$(realpath -m "${QUORATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/quorate}")
# The version of Kubernetes is said once, in the module that it is built from.
kubernetes=$(awk '$1 == "k8s.io/kubernetes" {print $2}' "$here/modules/kubernetes/go.mod")
bin=$cache/bin

say() { echo "$*" >&2; }
die() { say "error: $*"; exit 1; }

# step NAME COMMAND…: runs it quietly and says how long it took; what it printed is shown only if it failed.
step() {
    local name=$1 log started code=0
    shift
    log=$(mktemp)
    started=$(date +%s.%N)
    "$@" >"$log" 2>&1 || code=$?
    awk -v name="$name" -v from="$started" -v to="$(date +%s.%N)" -v code="$code" \
        'BEGIN { printf "  %-34s %6.1f s%s\n", name, to - from, code ? "  FAILED" : "" }' >&2
    [ "$code" -eq 0 ] || cat "$log" >&2
    rm -f "$log"
    return "$code"
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
