#!/usr/bin/env bash
# What zfjax does on this machine's GPU or TPU, as one Markdown page.
#
#   bash benchmarks/accelerator.sh [PAGE]        default accelerator.md
#
# Needs Python 3.11 or newer with venv, git, and a network that reaches a package index. Finds an NVIDIA GPU or a TPU, makes
# an environment with JAX for it (and PyTorch for a GPU), and runs the benchmarks beside PyTorch, an epoch of Imagenette
# at 224 px, and the tests marked `accelerator`. A part that fails stands in the page with the end of what it said, and
# does not stop the others; the exit code is then 1. Variables:
#
#   PLATFORM=cuda|tpu|cpu   default what is found; cpu rehearses all parts in small, on a machine with neither
#   VENV=FOLDER             the environment; default .venv-accelerator, made if it is not there, else used as it is, with
#                           what PYTHONPATH adds
#   IMAGENETTE=FOLDER       its pictures, with train/ and val/; default downloaded
#   BATCH=256               images per step in the benchmark of the training step
#   ONLY="NAME NAME…"       some of the parts, by the names below; default all
#   LIMIT=3600              seconds that a part may take
set -uo pipefail
page=$(realpath -m -- "${1:-accelerator.md}")
environment=$(realpath -m -- "${VENV:-.venv-accelerator}")
pictures=${IMAGENETTE:+$(realpath -m -- "$IMAGENETTE")}
cd "$(dirname "$0")/.." || exit
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

found() {
  if nvidia-smi >/dev/null 2>&1; then
    echo cuda
  elif compgen -G '/dev/accel*' >/dev/null || compgen -G '/dev/vfio/[0-9]*' >/dev/null; then
    echo tpu
  fi
}

platform=${PLATFORM:-$(found)}
case $platform in
  cuda) jax='jax[cuda12]' ;;
  tpu) jax='jax[tpu]' ;;
  cpu) jax=jax ;;
  *)
    echo "found neither an NVIDIA GPU (nvidia-smi) nor a TPU (/dev/accel*, /dev/vfio/*); PLATFORM=cpu rehearses without"
    exit 2
    ;;
esac

python=$environment/bin/python
made=
if [ ! -x "$python" ]; then
  python3 -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' || { echo "expected python3 to be 3.11 or newer, with venv"; exit 2; }
  echo "== installing zfjax and $jax into $environment" >&2
  made=yes
  python3 -m venv "$environment"
  "$python" -m pip install -q -e '.[test]' "$jax" || { rm -rf "$environment"; echo "could not install zfjax and $jax"; exit 2; }
fi
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export JAX_PLATFORMS=$platform
[ "$platform" = cpu ] || JAX_PLATFORMS+=,cpu
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.5}  # the rest of a GPU's memory is for PyTorch
device=$("$python" -c 'import jax; print(jax.device_count(), "×", jax.devices()[0].device_kind, jax.default_backend())') || exit 2
[ "$platform" = cpu ] || [ "${device##* }" != cpu ] || { echo "JAX finds no $platform, though the machine seems to have one"; exit 2; }
device=${device% *}

machine() {
  "$python" - <<'PYTHON'
import importlib.metadata
import os
import platform
import subprocess


def said(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip().replace("\n", "; ")
    except (OSError, subprocess.SubprocessError):
        return ""


def version(name):
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return ""


with open("/proc/cpuinfo") as file:
    models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
names = "jax jaxlib jax-cuda12-plugin libtpu nvidia-cudnn-cu12 flax optax grain numpy torch captum"
rows = {
    "NVIDIA": said("nvidia-smi", "--query-gpu=name,memory.total,driver_version,power.limit", "--format=csv,noheader"),
    "processor": f"{(models or [platform.machine()])[0]}, {os.cpu_count()} cores, {memory:.0f} GiB",
    "system": f"{platform.platform()}, Python {platform.python_version()}",
    "versions": ", ".join(filter(None, map(version, names.split()))),
}
print("| | |\n|---|---|")
print("\n".join(f"| {name} | {value} |" for name, value in rows.items() if value))
PYTHON
}

write_page() {
  {
    echo "# On $device"
    printf '\nWritten by %s on %s, commit %s.\n' "\`benchmarks/accelerator.sh\`" "$(date -u +%F)" "$(git describe --always --dirty 2>/dev/null)"
    [ "$platform" != cpu ] || printf '\n**A rehearsal on a CPU, in small: its numbers say nothing.**\n'
    printf '\n'
    cat "$work/machine"
    printf '\n| part | |\n|---|---|\n'
    cat "$work/summary" "$work/parts"
  } >"$page"
}

# The command as one would type it.
typed() {
  local word words=()
  for word; do
    [ "$word" != "$python" ] || word=python
    [[ $word =~ ^[[:alnum:]_./=:,+-]+$ ]] || word=${word@Q}
    words+=("$word")
  done
  echo "${words[*]}"
}

# shellcheck disable=SC2016
# part NAME TITLE COMMAND…: run a part, and write the page with it.
part() {
  local name=$1 title=$2 start=$SECONDS code=0 result
  shift 2
  [[ " ${ONLY:-$name} " == *" $name "* ]] || return 0
  echo "== $title: $(typed "$@")" >&2
  timeout "${LIMIT:-3600}" "$@" >"$work/said" 2>"$work/errors" || code=$?
  result="done in $((SECONDS - start)) s"
  if [ "$code" != 0 ]; then
    failed=1
    result="**failed** after $((SECONDS - start)) s, exit code $code"
    [ "$code" != 124 ] || result+=": it took longer than allowed"
    tail -n 5 "$work/errors" >&2
  fi
  echo "| [$title](#$name) | $result |" >>"$work/summary"
  {
    printf '\n<a id="%s"></a>\n\n## %s\n\n```bash\n%s\n```\n\nThis part: %s.\n\n' "$name" "$title" "$(typed "$@")" "$result"
    if grep -q '^|' "$work/said"; then
      cat "$work/said"
    else
      printf '```text\n%s\n```\n' "$(tail -n 200 "$work/said")"
    fi
    [ "$code" = 0 ] || printf '\nThe end of its errors:\n\n```text\n%s\n```\n' "$(tail -n 40 "$work/errors")"
  } >>"$work/parts"
  write_page
}

# benchmark NAME TITLE FILE FLAGS SMALL: a part; SMALL are its flags in a rehearsal.
benchmark() {
  local flags
  if [ "$platform" = cpu ]; then read -ra flags <<<"$5"; else read -ra flags <<<"$4"; fi
  part "$1" "$2" "$python" "benchmarks/$3.py" "${flags[@]}"
}

touch "$work/summary" "$work/parts" "$work/machine"
if [ "$platform" = cuda ]; then
  if [ "$made" ]; then
    # Beside $jax, and for the same CUDA: cuDNN for CUDA 13 would be written over the one for CUDA 12 that JAX loads.
    echo 'nvidia-cudnn-cu13<0' >"$work/constraints"
    part peers "Installing PyTorch and Captum" "$python" -m pip install -q -c "$work/constraints" torch captum "$jax"
  fi
  part torch "PyTorch's GPU" "$python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())'
fi
machine >"$work/machine"
step="--batch ${BATCH:-256} --repeats 30"
small="--batch 4 --image-size 64 --width 0.1 --repeats 1"
benchmark step_bfloat16 "Training step, JAX in bfloat16" train_step "$step --dtype bfloat16" "$small --dtype bfloat16"
benchmark step_float32 "Training step, JAX in float32" train_step "$step" "$small"
benchmark deconvnet "The deconvnet" deconvnet "--repeats 30" "--repeats 1 --batch 1 --layers relu2 --units 1"
benchmark gallery "The gallery" gallery "--repeats 15 --batch 128" "--repeats 1 --batch 2 --batches 1 --layers relu1"
benchmark occlusion "Occlusion" occlusion "--repeats 9 --batch-size 256" "--repeats 1 --windows 96 --stride 64"
benchmark lenses "Lenses" lenses "--repeats 9 --batch 32 --batch-size 64" "--repeats 1 --batch 1 --steps 2 --samples 2 --maps 2 --batch-size 2 --image-size 64"
benchmark pipeline "The input pipeline" pipeline "" "--seconds 0.2 --size 64 --threads 1"
if [ "$platform" = cpu ]; then
  part epoch "An epoch" "$python" benchmarks/epoch.py --noise --batch 8 --image-size 48 --width 0.05
  part tests "Tests" env ZFJAX_TEST_PLATFORM=cpu "$python" -m pytest -m accelerator tests/test_seeds.py
else
  part epoch "An epoch of Imagenette, 224 px" "$python" benchmarks/epoch.py ${pictures:+"$pictures"}
  part tests "Tests" env ZFJAX_TEST_PLATFORM="$platform" "$python" -m pytest -m accelerator
fi
[ -s "$work/summary" ] || { echo "ONLY=$ONLY: no such part"; exit 2; }
echo "written to $page"
exit $failed
