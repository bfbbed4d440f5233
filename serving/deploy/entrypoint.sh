#!/bin/sh
# Secrets come as files; Prefect and MLflow want them in their environment.
set -eu
cd "${OPTSCALE_HOME:-/tmp}"
if [ -e /run/secrets/prefect_password ]; then
    PREFECT_API_AUTH_STRING="admin:$(cat /run/secrets/prefect_password)"
    PREFECT_SERVER_API_AUTH_STRING=$PREFECT_API_AUTH_STRING
    export PREFECT_API_AUTH_STRING PREFECT_SERVER_API_AUTH_STRING
fi
if [ -e /run/secrets/postgres_password ]; then
    PREFECT_SERVER_DATABASE_PASSWORD=$(cat /run/secrets/postgres_password)
    MLFLOW_BACKEND_STORE_URI="postgresql+psycopg://optscale:$PREFECT_SERVER_DATABASE_PASSWORD@postgres/mlflow"
    export PREFECT_SERVER_DATABASE_PASSWORD MLFLOW_BACKEND_STORE_URI
fi
[ -z "${PROMETHEUS_MULTIPROC_DIR:-}" ] || mkdir -p "$PROMETHEUS_MULTIPROC_DIR"
# Not every engine waits for what a service depends on: $WAIT_FOR is HOST:PORT of it.
for place in ${WAIT_FOR:-}; do
    until python -c "import socket; socket.create_connection(('${place%:*}', ${place#*:}), 5)" 2>/dev/null; do sleep 1; done
done
exec "$@"
