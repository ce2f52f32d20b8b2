#!/bin/sh
# An authority, and a certificate for each side. For an example: a cluster has an authority already.
set -eu
cd "$1"
key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30"
openssl req -x509 $key -keyout ca.key -out ca.pem -subj /CN=ca 2>/dev/null
for name in server client; do
  openssl req -x509 $key -keyout $name.key -out $name.pem -subj /CN=$name -CA ca.pem -CAkey ca.key \
    -addext "subjectAltName=DNS:encoder,DNS:localhost,IP:127.0.0.1" -addext basicConstraints=critical,CA:FALSE 2>/dev/null
done
chmod a+r ./*.key
