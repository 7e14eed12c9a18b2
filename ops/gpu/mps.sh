#!/bin/sh
# NVIDIA's Multi-Process Service: the processes that share a GPU run kernels at the same time. Without it they take turns,
# and a step of a language model delays a backbone on the same GPU by its whole length. Not yet run on hardware.
#
#   ops/gpu/mps.sh start    # in the foreground, as the user of the server; ops/systemd/roadwork-mps.service runs this
#   ops/gpu/mps.sh stop
#
# The server must have the same CUDA_MPS_PIPE_DIRECTORY. Language models then get a lower priority than other engines
# (CUDA_MPS_CLIENT_PRIORITY, set by the server). Start it before the server. A fault of one process on a GPU ends all
# processes on that GPU; Serve starts them again.
set -eu
umask 077
: "${CUDA_MPS_PIPE_DIRECTORY:=/tmp/roadwork-$(id -u)-mps}"
: "${CUDA_MPS_LOG_DIRECTORY:=$CUDA_MPS_PIPE_DIRECTORY}"
CUDA_DEVICE_ORDER=PCI_BUS_ID
export CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY CUDA_DEVICE_ORDER
control=$(command -v nvidia-cuda-mps-control) || {
  echo "nvidia-cuda-mps-control is not there: it comes with NVIDIA's driver (on Ubuntu in nvidia-compute-utils-580)" >&2
  exit 1
}
case "${1-}" in
  start)
    mkdir -p "$CUDA_MPS_PIPE_DIRECTORY" "$CUDA_MPS_LOG_DIRECTORY"
    echo "MPS: start the server with CUDA_MPS_PIPE_DIRECTORY=$CUDA_MPS_PIPE_DIRECTORY"
    exec "$control" -f
    ;;
  stop) echo quit | "$control" ;;
  *)
    echo "usage: $0 start | stop" >&2
    exit 2
    ;;
esac
