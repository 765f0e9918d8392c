#!/usr/bin/env bash
# Checks warpfold's kernels on this machine's GPU and runs the demo. Needs x86-64 Linux (glibc 2.34 or later) and an
# NVIDIA driver. Each step writes results/NN-name.txt as it goes; the table at the end is results/summary.txt.
# Ends with 0 where nothing failed, also on a machine without a GPU, and says what could not be done.
#
#   ./run.sh [DEVICE]        DEVICE: cuda:0 (the default), cuda:1, ...
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
device="${1:-cuda:0}"
mkdir -p results
rm -f results/[0-9]*.txt
: > results/summary.txt
number=0
num_failed=0
# A kernel that hangs must not keep the steps after it from running; timeout's exit code is 124.
STEP_SECONDS_MAX="${STEP_SECONDS_MAX:-3600}"

say() { echo "$*" | tee -a results/summary.txt; }

# Not every step that is not done is a failure: this one records why.
not_done() {
    number=$((number + 1))
    say "$(printf '%02d  %-44s not done: %s' "$number" "$1" "$2")"
}

# step NAME COMMAND...: runs it, keeps its output, notes its exit code and time.
step() {
    local name="$1" file start code skipped
    shift
    number=$((number + 1))
    file="results/$(printf '%02d' "$number")-$name.txt"
    echo "== $name"
    echo "$ $*" > "$file"
    start=$SECONDS
    timeout "$STEP_SECONDS_MAX" "$@" 2>&1 | tee -a "$file"
    code=${PIPESTATUS[0]}
    echo "exit code $code" >> "$file"
    skipped=$(grep -c 'skipped:' "$file")
    say "$(printf '%02d  %-44s exit code %-3s %5d s%s' "$number" "$name" "$code" $((SECONDS - start)) \
        "$([ "$skipped" -gt 0 ] && echo ", $skipped skipped")")"
    if [ "$code" -ne 0 ]; then num_failed=$((num_failed + 1)); fi
    return "$code"
}

finish() {
    echo
    echo "Summary (results/summary.txt)"
    cat results/summary.txt
    if [ "$num_failed" -gt 0 ]; then
        echo "$num_failed failed"
        exit 1
    fi
    echo "nothing failed"
    exit 0
}

if ! [ -e model/model.safetensors ]; then ./unpack contents.tar.zst . || say "The programs could not be unpacked."; fi

if ! bin/minilm --help > results/start.txt 2>&1; then
    cat results/start.txt
    say "Nothing could be done: the programs do not start here (they need x86-64 Linux with glibc 2.34 or later)."
    exit 1
fi
rm results/start.txt

parts=(attention rows cuda random)

if ! command -v nvidia-smi > /dev/null || ! nvidia-smi -L 2> /dev/null | grep -q GPU; then
    why="there is no NVIDIA GPU with a driver here"
    for part in "${parts[@]}"; do not_done "differential-$part" "$why"; done
    not_done table "$why"
    not_done pytorch "$why"
    not_done sweep "$why"
    not_done sanitizer "$why"
    not_done "demo on $device" "$why"
    # What is left to see is whether the bundle is whole.
    step demo-cpu-f16 bin/minilm demo --model model --device cpu --dtype f16 --out results/demo-cpu-f16 --check-reference
    finish
fi

step nvidia-smi nvidia-smi
step nvidia-smi-query nvidia-smi -q

export WARPFOLD_TEST_DEVICE="$device"
for part in "${parts[@]}"; do
    step "differential-$part" bin/differential "$part::" --nocapture
done

# What the kernels do over sizes, beside PyTorch's.
step table bin/sweep --table --device "$device" --csv results/table.csv
if python3 -c 'import torch' > /dev/null 2>&1; then
    step pytorch python3 pytorch.py --csv results/pytorch.csv
else
    not_done pytorch "python3 has no PyTorch here"
fi
# Which tiles the table of kernels should have: figures in results/sweep.csv, advice at the end of the step's output.
step sweep bin/sweep --device "$device" --csv results/sweep.csv --picks results/picks.txt

sanitizer=""
for candidate in "$(command -v compute-sanitizer)" /usr/local/cuda/bin/compute-sanitizer \
    /usr/local/cuda/compute-sanitizer/compute-sanitizer /opt/cuda/bin/compute-sanitizer; do
    if [ -n "$candidate" ] && [ -x "$candidate" ]; then sanitizer="$candidate" && break; fi
done
# Known reports, of attention_backward_key_value_sm90a on an H100: racecheck names the queries' numbers, whose reads are followed by
# __syncwarp and one lane's arrival at the mbarrier that the next store waits for; synccheck names the barrier of all computing threads,
# which two roles reach from different places. The emulator finds both in order.
for tool in memcheck racecheck initcheck synccheck; do
    for part in "${parts[@]}"; do
        name="$tool-$part"
        if [ -z "$sanitizer" ]; then
            not_done "$name" "compute-sanitizer is not installed (it comes with the CUDA toolkit)"
        else
            WARPFOLD_TEST_CASES=small step "$name" \
                "$sanitizer" --tool "$tool" --error-exitcode 99 bin/differential "$part::" --nocapture --test-threads=1
        fi
    done
done

library_path="${LD_LIBRARY_PATH:-}"
cublas=$({ ldconfig -p 2> /dev/null || /sbin/ldconfig -p; } 2> /dev/null | grep -c libcublas.so)
for folder in ${library_path//:/ } /usr/local/cuda/lib64; do
    for library in "$folder"/libcublas.so*; do if [ -e "$library" ]; then cublas=$((cublas + 1)); fi; done
done
for dtype in f16 bf16; do
    if [ "$cublas" -eq 0 ]; then
        not_done "demo-$dtype" "the model's matrix products need cuBLAS (libcublas.so of CUDA 12 or 13)"
    else
        step "demo-$dtype" bin/minilm demo --model model --device "$device" --dtype "$dtype" \
            --out "results/demo-$dtype" --check-reference
    fi
done
finish
