#!/bin/sh
# The image's own entry point, with the password from its file: the server's configuration reads the environment only.
set -eu
POSTGRES_PWD="$(cat /run/secrets/postgres_password)"
export POSTGRES_PWD
exec /etc/temporal/entrypoint.sh
