#!/bin/sh
# Make the secrets that are missing. The folder is its owner's alone; the files can be read, for a container's
# user is another than the host's.
set -eu
umask 077
cd "$(dirname "$0")" && mkdir -p secrets && cd secrets
for name in postgres_password prefect_password metrics_key api_key; do
    [ -s "$name" ] || od -An -v -N32 -tx1 /dev/urandom | tr -d ' \n' > "$name"
done
[ -s api_keys ] || { cat api_key; echo; cat metrics_key; echo; } > api_keys  # a key a line
chmod 0644 ./*
