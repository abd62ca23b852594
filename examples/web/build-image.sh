#!/bin/sh
# build-image.sh ARCHIVE: makes the example's image as a docker archive out of Debian's static busybox and the scripts beside
# this one. No registry and no container engine is needed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
archive=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir -p "$work/root/bin" "$work/root/tmp" "$work/root/data"
cp "$(command -v busybox)" "$work/root/bin/busybox"
for applet in $(busybox --list | grep -vx busybox); do ln -sf busybox "$work/root/bin/$applet"; done
cp -r "$here"/image/www-front "$here"/image/www-store "$work/root/"
cp "$here"/image/fetch "$work/root/bin/"

# Names, owners and times are fixed, so that the same input gives the same image.
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$work/root" -cf "$work/layer.tar" .
layer=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
mv "$work/layer.tar" "$work/$layer.tar"
cat >"$work/config.json" <<JSON
{"architecture":"$(dpkg --print-architecture)","os":"linux","created":"1970-01-01T00:00:00Z",
 "config":{"Env":["PATH=/bin"],"Cmd":["httpd","-f","-p","8080","-h","/www-front"]},
 "rootfs":{"type":"layers","diff_ids":["sha256:$layer"]},
 "history":[{"created":"1970-01-01T00:00:00Z","created_by":"build-image.sh"}]}
JSON
config=$(sha256sum "$work/config.json" | cut -d' ' -f1)
mv "$work/config.json" "$work/$config.json"
printf '[{"Config":"%s.json","RepoTags":["orlop.example/web:1"],"Layers":["%s.tar"]}]' "$config" "$layer" >"$work/manifest.json"
tar -C "$work" -cf "$archive" manifest.json "$config.json" "$layer.tar"
