#!/bin/sh
# Make the namespace, once the server answers. Safe to repeat.
set -eu
tries=60
until temporal operator cluster health --address "$TEMPORAL_ADDRESS"; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || { echo "Temporal does not answer at $TEMPORAL_ADDRESS"; exit 1; }
    sleep 2
done
if temporal operator namespace describe --namespace "$NAMESPACE" --address "$TEMPORAL_ADDRESS" > /dev/null 2>&1; then
    echo "namespace $NAMESPACE is there"
else
    temporal operator namespace create --namespace "$NAMESPACE" --retention "$RETENTION" --address "$TEMPORAL_ADDRESS"
fi
