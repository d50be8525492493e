#!/bin/sh
# Builds the images of the cluster without pulling any: from programs compiled here and this machine's haproxy
# (apt-get install haproxy).
set -eu
cd "$(dirname "$0")"
haproxy=$(command -v haproxy || echo /usr/sbin/haproxy)
[ -x "$haproxy" ] || { echo "error: there is no haproxy here; next: apt-get install haproxy" >&2; exit 1; }
rm -rf .build
sh compile.sh "$PWD/.build"
mkdir -p .build/balancer/usr/sbin
cp "$haproxy" .build/balancer/usr/sbin/haproxy
ldd "$haproxy" | grep -o '/[^ ]*' | while read -r library; do
  mkdir -p ".build/balancer$(dirname "$library")"
  cp -L "$library" ".build/balancer$library"
done
docker build -q -f local.Dockerfile -t skein:local .build
docker build -q -f balancer.Dockerfile -t skein-balancer:local .build
