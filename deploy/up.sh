#!/bin/sh
# Brings the cluster up: images, keys and certificates, then all processes; the main job runs once.
#   sh deploy/up.sh              compiles in a container, and pulls what that needs
#   sh deploy/up.sh --local      compiles here, and pulls nothing (needs Go and haproxy)
#   sh deploy/up.sh --accounts   gives each project a NATS account of its own; with --local, or without
# What else is given goes to `docker compose up`, as in: sh deploy/up.sh --detach
set -eu
cd "$(dirname "$0")"
compose="docker compose"
$compose version >/dev/null 2>&1 || compose=docker-compose

files=docker-compose.yml compile="$compose build desk-host-1"
accounts='' other='an account for each project' traces='keys/schedulers data/nats-1/jetstream/flight-desk'
while :; do
  case ${1:-} in
    --local) files=$files:docker-compose.local.yml compile="sh build-local.sh" ;;
    --accounts)
      files=$files:docker-compose.accounts.yml
      accounts=--accounts other='one account' traces='keys/users/scheduler.nk data/nats-1/jetstream/SKEIN'
      ;;
    *) break ;;
  esac
  shift
done

# Streams stay in their account: what keys and data of the other level are for is not to be had with this one.
for trace in $traces; do
  [ ! -e "$trace" ] || {
    echo "error: deploy/$trace: this cluster was made with $other, and its streams stay there; next: call up.sh as before, or to begin" \
      "anew without what it holds: (cd deploy && $compose down && rm -r data keys .env)" >&2
    exit 1
  }
done

# Compose reads this file, so that its other commands need no flags. Keys and data belong to whoever runs this.
cat >.env <<END
COMPOSE_FILE=$files
SKEIN_USER=$(id -u):$(id -g)
END
$compile

mkdir -p keys data/nats-1 data/nats-2 data/nats-3
docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD/keys:/keys" --entrypoint /bin/skein skein:local \
  auth init $accounts --dir /keys --servers 3 --server-dir /config --store-dir /data \
  --project flight-desk --project email-workflows --project expenses --project bench --grant flight-desk:email-workflows >/dev/null
$compose up "$@"
