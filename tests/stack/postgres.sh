#!/bin/sh
# First start: a cluster with the user and password that are asked for, and the scripts that are mounted.
set -eu
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --encoding=UTF8 --locale=C.UTF-8 --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth-local=trust \
        --auth-host=scram-sha-256 --no-sync >/dev/null
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    pg_ctl -w start -o "-c listen_addresses= -c unix_socket_directories=/tmp" >/dev/null
    for script in /docker-entrypoint-initdb.d/*.sql; do
        psql -q -h /tmp -U "$POSTGRES_USER" -d postgres -v ON_ERROR_STOP=1 -f "$script"
    done
    pg_ctl -w stop >/dev/null
fi
exec postgres -c "listen_addresses=*" -c unix_socket_directories=/tmp,/var/run/postgresql
