#!/bin/sh
# Compiles all that runs in the cluster of this folder into OUT: static programs in OUT/bin, the projects' files in OUT/etc/skein.
# The NATS server is of the version that go.mod has, which is the one that Skein is tested with. SKEIN_SOURCE is the repository, if
# this folder is a copy.
set -eu
out=${1:?usage: deploy/compile.sh OUT}
cd "${SKEIN_SOURCE:-$(dirname "$0")/..}"
export CGO_ENABLED=0
mkdir -p "$out/bin" "$out/etc/skein"
go build -trimpath -o "$out/bin/" ./cmd/skein ./cmd/scheduler ./cmd/agent-host ./cmd/workflow-runner ./deploy/mainjob
go build -trimpath -o "$out/bin/board-host" ./examples/expenses/agent-host
go build -trimpath -o "$out/bin/board-runner" ./examples/expenses/workflow-runner
go build -trimpath -o "$out/bin/nats-server" github.com/nats-io/nats-server/v2
for project in flightdesk emailworkflows expenses; do
  cp "examples/$project/skein.jsonc" "$out/etc/skein/$project.jsonc"
done
