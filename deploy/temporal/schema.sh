#!/bin/sh
# Make or upgrade Temporal's two databases with the tool of the server's own version. Safe to repeat.
set -eu
SQL_PASSWORD="$(cat /run/secrets/postgres_password)"
export SQL_PASSWORD
tool() {
    temporal-sql-tool --plugin postgres12 --endpoint "$POSTGRES_SEEDS" --port 5432 --user "$POSTGRES_USER" "$@"
}
for database in temporal temporal_visibility; do
    versions="/etc/temporal/schema/postgresql/v12/${database#temporal_}/versioned"
    tool --database "$database" create-database
    tool --database "$database" setup-schema --version 0.0 # leaves a schema of a higher version as it is
    tool --database "$database" update-schema --schema-dir "$versions"
done
