#!/bin/sh
# Brings the cluster up: images, keys and certificates, then all processes; the main job runs once.
#   sh deploy/up.sh           compiles in a container, and pulls what that needs
#   sh deploy/up.sh --local   compiles here, and pulls nothing (needs Go and haproxy)
# What else is given goes to `docker compose up`, as in: sh deploy/up.sh --detach
set -eu
cd "$(dirname "$0")"
compose="docker compose"
$compose version >/dev/null 2>&1 || compose=docker-compose

files=docker-compose.yml
if [ "${1:-}" = --local ]; then
  shift
  files=docker-compose.yml:docker-compose.local.yml
  sh build-local.sh
fi
# Compose reads this file, so that its other commands need no flags. Keys and data belong to whoever runs this.
cat >.env <<END
COMPOSE_FILE=$files
SKEIN_USER=$(id -u):$(id -g)
END
[ "$files" != docker-compose.yml ] || $compose build desk-host-1

mkdir -p keys data/nats-1 data/nats-2 data/nats-3
docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD/keys:/keys" --entrypoint /bin/skein skein:local \
  auth init --dir /keys --servers 3 --server-dir /config --store-dir /data \
  --project flight-desk --project email-workflows --project expenses --grant flight-desk:email-workflows >/dev/null
$compose up "$@"
