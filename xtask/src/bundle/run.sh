#!/usr/bin/env bash
# Checks warpfold's kernels on this machine's GPU, holds the emulator to it, times the kernels, and runs the demo. Needs x86-64
# Linux (glibc 2.34 or later) and an NVIDIA driver; Python 3 with NumPy, PyTorch, compute-sanitizer, ncu and cuBLAS are used where
# they are there. It leaves the GPU's clocks, power and modes as they are.
#
# Steps run in the order of their worth, each within its share of the time that is left, and write RESULTS/NN-name.txt as they go.
# RESULTS/summary.txt (with --only check: summary-check.txt) is written anew after each step, so that a run that is cut short, even
# by a kill, still counts. The exit code is 0 where nothing failed, also on a machine without a GPU, where it says what could not
# be done and checks the bundle.
# shellcheck disable=SC2329 # The plan calls its steps by name.
set -uo pipefail

usage() {
    cat << 'USAGE'
usage: ./run.sh [--device cuda:0] [--seconds 1500] [--results FOLDER] [--only PART,...]

  --device NAME      the GPU: cuda:0 (the default), cuda:1, ...
  --seconds N        the time for everything (1500)
  --results FOLDER   where to write (results, beside this script)
  --only PART,...    only these parts, of: check, emulator, sanitizer, bench, sweep, ncu, demo
USAGE
}

refuse() {
    echo "error: $1" >&2
    usage >&2
    exit 2
}

known_parts=(check emulator sanitizer bench sweep ncu demo)
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)" || exit 1
device=cuda:0
seconds=1500
results="$here/results"
only=""
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help) usage && exit 0 ;;
        --device | --seconds | --results | --only) [ $# -ge 2 ] || refuse "$1 needs a value" ;;
        *) refuse "\"$1\" is not known" ;;
    esac
    case "$1" in
        --device) device="$2" ;;
        --seconds) seconds="$2" ;;
        --results) results="$2" ;;
        --only) only="$2" ;;
    esac
    shift 2
done
[[ $device =~ ^cuda:[0-9]+$ ]] || refuse "--device is cuda:N, not \"$device\""
[[ $seconds =~ ^[1-9][0-9]*$ ]] || refuse "--seconds is a number above 0, not \"$seconds\""
for part in ${only//,/ }; do
    [[ " ${known_parts[*]} " == *" $part "* ]] || refuse "--only: there is no part \"$part\""
done
mkdir -p "$results" || exit 1
results="$(cd "$results" && pwd)" || exit 1
cd "$here" || exit 1
summary="$results/summary${only:+-${only//,/-}}.txt"

# What is left at the end, for the summary and for a step that takes its time to die.
RESERVE_SECONDS=5
# How long a step may take from the request to stop until it is killed.
KILL_SECONDS=3
# For tests of this script: what each step needs at least, instead of what the plan says.
SHORTEST_SECONDS="${SHORTEST_SECONDS:-}"
# bash counts SECONDS from the script's start.
deadline=$((seconds - RESERVE_SECONDS))

commit=unknown
if [ -e commit ]; then commit="$(cat commit)"; fi
# What the programs and scripts write into their records.
export WARPFOLD_COMMIT="$commit"
export PYTHONPATH="$here/python" PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

# ---- The summary ----

lines=()
num_failed=0
num_cut=0
num_not_done=0
gpu_name="no GPU"
name="" place="  " current="" child=""

# write_summary STATE: the file is replaced at once, so that it is whole whenever the run is killed.
write_summary() {
    {
        echo "warpfold $commit on $gpu_name, $(date '+%F %H:%M:%S'), $SECONDS of $seconds s"
        if [ ${#lines[@]} -gt 0 ]; then printf '%s\n' "${lines[@]}"; fi
        if [ -n "$current" ]; then echo "    $current: begun, and not ended when this was written"; fi
        echo "$1: $num_failed failed, $num_cut cut short, $num_not_done not done"
    } > "$summary.new" && mv "$summary.new" "$summary"
}

# say NAME STATUS: a line of the summary.
say() {
    lines+=("$(printf '%s  %-24s %s' "$place" "$1" "$2")")
    echo "${lines[-1]}"
    write_summary "so far"
}

not_done() {
    num_not_done=$((num_not_done + 1))
    say "$1" "not done: $2"
}

finish() {
    current=""
    write_summary "in all"
    echo
    cat "$summary"
    [ "$num_failed" -eq 0 ] || exit 1
    exit "${1:-0}"
}

# A signal to this script ends the step that runs, and the summary says so.
interrupted() {
    trap '' INT TERM HUP
    # Its `timeout` hands the signal on, and kills what does not heed it.
    if [ -n "$child" ]; then kill -TERM "$child" 2> /dev/null && wait "$child" 2> /dev/null; fi
    if [ -n "$current" ]; then
        num_cut=$((num_cut + 1))
        say "$current" "cut short by a signal"
    fi
    finish $((128 + $1))
}
trap 'interrupted 1' HUP
trap 'interrupted 2' INT
trap 'interrupted 15' TERM

# ---- The plan ----

# plan PART NAME KIND WEIGHT MINIMUM FUNCTION ARGUMENT...: a step. Its share of the time that is left is that of its weight among
# the steps to come; with less than MINIMUM seconds it does not begin. KINDS:
#   must     one that does not end in its time has failed: a check says nothing otherwise
#   may      what it did until it was cut short counts
#   report   its exit code says nothing about warpfold
planned=0
places=() names=() kinds=() weights=() minimums=() actions=()
plan() {
    # A step has its number in runs of some parts as well.
    planned=$((planned + 1))
    if ! is_wanted "$1"; then return; fi
    places+=("$(printf '%02d' "$planned")") names+=("$2") kinds+=("$3") weights+=("$4") minimums+=("${SHORTEST_SECONDS:-$5}")
    shift 5
    actions+=("$*")
}

is_wanted() { [ -z "$only" ] || [[ ",$only," == *",$1,"* ]]; }

run_plan() {
    local index later weights_left words remaining
    for index in "${!names[@]}"; do
        name="${names[index]}" place="${places[index]}" kind="${kinds[index]}"
        remaining=$((deadline - SECONDS))
        weights_left=0
        for later in "${weights[@]:index}"; do weights_left=$((weights_left + later)); done
        limit=$((remaining * weights[index] / weights_left))
        if [ "$limit" -lt "${minimums[index]}" ]; then limit="${minimums[index]}"; fi
        if [ "$limit" -gt "$remaining" ]; then
            not_done "$name" "no time left ($((remaining > 0 ? remaining : 0)) s; it needs ${minimums[index]})"
            continue
        fi
        read -ra words <<< "${actions[index]}"
        "${words[@]}"
    done
}

# run COMMAND...: the step's command within its limit; keeps its output, notes its exit code and time.
run() {
    local file start code taken status
    file="$results/$place-$name.txt"
    echo "== $name (at most $limit s)"
    echo "$ $*" > "$file"
    current="$name"
    write_summary "so far"
    start=$SECONDS
    timeout --kill-after="$KILL_SECONDS" "$limit" "$@" >> "$file" 2>&1 < /dev/null &
    child=$!
    # Without bash's own line about what was killed.
    wait "$child" 2> /dev/null
    code=$?
    child=""
    current=""
    taken="$((SECONDS - start)) s"
    echo "exit code $code after $taken" >> "$file"
    tail -n 4 "$file" | cut -c 1-160 | sed 's/^/    /'
    # timeout's own exit code; and that of what had to be killed.
    if [ "$code" -eq 124 ] || { [ "$code" -eq 137 ] && [ $((SECONDS - start)) -ge "$limit" ]; }; then
        if [ "$kind" = must ]; then
            num_failed=$((num_failed + 1))
            say "$name" "FAILED: did not end within $limit s"
        else
            num_cut=$((num_cut + 1))
            say "$name" "cut short after $limit s"
        fi
    elif [ "$code" -eq 0 ]; then
        status="ok"
        if grep -q 'skipped:' "$file"; then status="ok, $(grep -c 'skipped:' "$file") skipped"; fi
        say "$name" "$status, $taken"
    elif [ "$kind" = report ]; then
        num_not_done=$((num_not_done + 1))
        say "$name" "not done: exit code $code, $taken: $(why_not "$file")"
    else
        num_failed=$((num_failed + 1))
        say "$name" "FAILED: exit code $code, $taken"
    fi
}

# ---- What the machine has ----

# first_program NAME PATH...: the first that is there.
first_program() {
    local candidate
    for candidate in "$(command -v "$1")" "${@:2}"; do
        if [ -n "$candidate" ] && [ -x "$candidate" ]; then echo "$candidate" && return; fi
    done
}

# has_module NAME: whether python3 can import it, which takes PyTorch some seconds.
declare -A modules
has_module() {
    if [ -z "${modules[$1]:-}" ]; then
        modules[$1]=yes
        timeout 120 python3 -c "import $1" > /dev/null 2>&1 || modules[$1]=no
    fi
    [ "${modules[$1]}" = yes ]
}

# needs NAME FUNCTION ARGUMENT...: the step, if python3 has the module.
needs() {
    if ! command -v python3 > /dev/null; then
        not_done "$name" "there is no python3 here"
    elif ! has_module "$1"; then
        not_done "$name" "python3 has no $1 here"
    else
        "${@:2}"
    fi
}

has_cublas() {
    local folder library_path="${LD_LIBRARY_PATH:-}"
    if { ldconfig -p || /sbin/ldconfig -p; } 2> /dev/null | grep -q libcublas.so; then return; fi
    for folder in ${library_path//:/ } /usr/local/cuda/lib64; do
        if compgen -G "$folder/libcublas.so*" > /dev/null; then return; fi
    done
    return 1
}

# slug NAME: a GPU's name as that of its folder of records: "NVIDIA H100 80GB HBM3" is h100, "NVIDIA GeForce RTX 4090" rtx-4090.
slug() {
    local words
    words="$(tr '[:upper:]' '[:lower:]' <<< "$1" | tr -cs 'a-z0-9_' '\n' | grep -vxE '(nvidia|geforce|tesla|hbm.*|[0-9]+gb)?' | paste -s -d -)"
    echo "${words:-gpu}"
}

# ---- The steps ----

differential() {
    run env WARPFOLD_TEST_DEVICE="$device" bin/differential "$1::" --nocapture
}

check() {
    run bin/warpfold check --device "$device" "$@"
}

record_hardware() {
    run python3 hardware/record.py --device "$device" "$results/hardware/$gpu"
}

# Known reports, of attention_backward_key_value_sm90a on an H100: racecheck names the queries' numbers, whose reads are followed by
# __syncwarp and one lane's arrival at the mbarrier that the next store waits for; synccheck names the barrier of all computing
# threads, which two roles reach from different places. The emulator finds both in order.
sanitize() {
    if [ -z "$sanitizer" ]; then
        not_done "$name" "compute-sanitizer is not installed (it comes with the CUDA toolkit)"
        return
    fi
    run env WARPFOLD_TEST_DEVICE="$device" WARPFOLD_TEST_CASES=small \
        "$sanitizer" --tool "$1" --error-exitcode 99 bin/differential "$2::" --nocapture --test-threads=1
}

compare() {
    run python3 python/bench/compare.py --device "$device" --csv "$record-compare.csv" "$@"
}

bench() {
    # It shall end by itself, with the last problem whole.
    run bin/warpfold bench --device "$device" --csv "$record.csv" --seconds $((limit * 9 / 10))
}

plot() {
    if [ -s "$record.csv" ]; then
        run bin/warpfold plot "$record.csv" --out "$results/plots"
    else
        not_done "$name" "the bench left no figures"
    fi
}

pytorch() {
    run python3 benches/pytorch.py --csv "$record-pytorch.csv"
}

sweep() {
    run bin/sweep --device "$device" --csv "$results/sweep.csv" --picks "$results/picks.txt"
}

# profile KERNEL OPERATION SHAPE: hardware counters of two launches of a kernel in one problem of the bench. Clocks stay as they are.
profile() {
    if [ -z "$ncu" ]; then
        not_done "$name" "ncu is not installed (it comes with the CUDA toolkit)"
        return
    fi
    run "$ncu" --clock-control none --kernel-name "regex:^$1" --launch-skip 2 --launch-count 2 --kill yes \
        --section SpeedOfLight --section Occupancy --section WarpStateStats --section MemoryWorkloadAnalysis \
        bin/warpfold bench --device "$device" --op "$2" --shapes "$3" --dtype bf16 --budget-ms 5
}

# why_not FILE: what kept ncu from its work, in a few words.
why_not() {
    if grep -q ERR_NVGPUCTRPERM "$1"; then
        echo "the driver lets only an administrator read counters"
    else
        grep -m 1 -E '==ERROR==|[Ee]rror' "$1" | cut -c 1-100
    fi
}

demo() {
    if has_cublas; then
        run bin/minilm demo --model model --device "$device" --dtype "$1" --out "$results/demo-$1" --check-reference
    else
        not_done "$name" "the model's matrix products need cuBLAS (libcublas.so of CUDA 12 or 13)"
    fi
}

# ---- Without a GPU: whether the bundle is whole ----

python_check='
import numpy as np, warpfold as wf
q, k, v = np.random.default_rng(0).standard_normal((3, 1, 2, 70, 64)).astype(np.float32)
out = wf.attention(q, k, v)
scores = np.einsum("bhqd,bhkd->bhqk", q.astype(float), k) / 8
weights = np.exp(scores - scores.max(-1, keepdims=True))
expected = np.einsum("bhqk,bhkd->bhqd", weights / weights.sum(-1, keepdims=True), v.astype(float))
error = abs(out - expected).max()
print(f"warpfold {wf.__version__}: attention on the CPU differs by {error:.1e} from NumPy in float64")
assert error < 1e-5'

check_bundle() {
    plan check devices must 1 10 run bin/warpfold devices
    plan check check-cpu must 4 20 run bin/warpfold check --device cpu --cases 20 --seed 1
    plan check python-cpu must 2 10 needs numpy python_on_cpu
    plan emulator hardware-vectors must 1 5 needs numpy record_hardware
    plan demo demo-cpu-f16 must 4 20 demo_on_cpu
    run_plan
}

python_on_cpu() { run python3 -c "$python_check"; }

demo_on_cpu() {
    run bin/minilm demo --model model --device cpu --dtype f16 --out "$results/demo-cpu-f16" --check-reference
}

# ---- The run ----

if ! [ -e model/model.safetensors ] && ! ./unpack contents.tar.zst .; then
    num_failed=1
    say unpack "FAILED: the programs could not be unpacked"
    finish
fi
if ! bin/minilm --help > "$results/start.txt" 2>&1; then
    cat "$results/start.txt"
    num_failed=1
    say start "FAILED: the programs do not start here (they need x86-64 Linux with glibc 2.34 or later)"
    finish
fi
rm -f "$results/start.txt"

gpu=none
if ! command -v nvidia-smi > /dev/null || ! nvidia-smi -L 2> /dev/null | grep -q GPU; then
    for part in "${known_parts[@]}"; do
        if is_wanted "$part"; then not_done "$part" "there is no NVIDIA GPU with a driver here"; fi
    done
    check_bundle
    finish
fi

query() { nvidia-smi -i "${device#cuda:}" --query-gpu="$1" --format=csv,noheader 2> /dev/null | head -n 1; }
gpu_name="$(query name)"
gpu="$(slug "$gpu_name")"
record="$results/record/$gpu/$(date +%F)-${commit%+}"
mkdir -p "$results/record/$gpu"
nvidia-smi -q > "$results/nvidia-smi.txt" 2>&1
sanitizer="$(first_program compute-sanitizer /usr/local/cuda/bin/compute-sanitizer \
    /usr/local/cuda/compute-sanitizer/compute-sanitizer /opt/cuda/bin/compute-sanitizer)"
ncu="$(first_program ncu /usr/local/cuda/bin/ncu /opt/nvidia/nsight-compute/*/ncu)"
emulator=emulator:sm_80
if [ "$(query compute_cap)" = 9.0 ]; then emulator=emulator:sm_90a; fi

plan check devices must 1 10 run bin/warpfold devices
plan check check-attention must 16 20 differential attention
plan check check-rows must 8 20 differential rows
plan check check-cuda must 2 10 differential cuda
plan check check-random must 8 20 differential random
plan check check-more must 6 20 check --cases 100 --seed 1
plan emulator hardware-vectors must 3 20 needs numpy record_hardware
# The emulator is slow: what was compared until the time is over counts.
plan emulator against-emulator may 6 20 check --against "$emulator" --cases 40 --seed 2
for tool in memcheck racecheck initcheck synccheck; do
    for part in attention rows cuda random; do
        plan sanitizer "$tool-$part" may 1 15 sanitize "$tool" "$part"
    done
done
plan bench compare may 14 60 needs torch compare
plan bench bench may 10 30 bench
plan bench plot report 1 5 plot
plan bench pytorch may 5 30 needs torch pytorch
plan sweep sweep may 8 60 sweep
plan ncu ncu-attention-forward report 1 20 profile attention_forward attention-forward b4,h16,s4096,d128,causal
plan ncu ncu-attention-backward report 1 20 profile attention_backward attention-backward b4,h16,s4096,d128,causal
plan ncu ncu-softmax report 1 15 profile softmax_forward softmax-forward 16384x4096
plan ncu ncu-norm-forward report 1 15 profile norm_forward rms_norm-forward 16384x4096
plan ncu ncu-norm-backward report 1 15 profile norm_backward rms_norm-backward 16384x4096
plan demo demo-f16 must 1 15 demo f16
plan demo demo-bf16 must 1 15 demo bf16
run_plan
finish
