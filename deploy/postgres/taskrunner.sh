#!/bin/bash
# Run once by the postgres image, on an empty volume: Taskrunner's own role, which owns its own database.
set -euo pipefail
psql --username "$POSTGRES_USER" --set ON_ERROR_STOP=1 --set password="$(cat /run/secrets/taskrunner_password)" <<'SQL'
CREATE ROLE taskrunner LOGIN PASSWORD :'password';
CREATE DATABASE taskrunner OWNER taskrunner;
SQL
