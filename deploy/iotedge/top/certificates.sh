#!/bin/sh
# Makes the certificates of top.site.example: a root CA for the whole hierarchy, unless
# there is one, and the CA of this device (Edge CA), which signs the certificates of its
# modules, the API proxy and registry-module among them.
#
#   ./certificates.sh [DIRECTORY]
#
# Run it for all devices with the same directory, on a machine that is kept safe: who has
# root-ca.key.pem can pretend to be any of them. It needs OpenSSL 1.1.1 or later, and
# overwrites nothing.
#
# ROOT_CA_DAYS (3650) and EDGE_CA_DAYS (365) are for how long they are valid.
set -eu
umask 077

host='top.site.example'
dir="${1:-certificates}"
root="$dir/root-ca"
edge="$dir/edge-ca-$host"
mkdir -p "$dir"

extensions="$(mktemp)"
trap 'rm -f "$extensions" "$edge.csr.pem"' EXIT
# RFC 5280: a CA, which may sign certificates, and nothing else.
cat >"$extensions" <<'END'
[req]
distinguished_name = subject
prompt = no
[subject]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, digitalSignature, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[edge_ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, digitalSignature, keyCertSign, cRLSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
END

if [ ! -e "$root.key.pem" ]; then
    openssl genrsa -out "$root.key.pem" 4096
    openssl req -x509 -new -sha256 -config "$extensions" -extensions ca \
        -key "$root.key.pem" -subj "/CN=IoT Edge hierarchy root CA" \
        -days "${ROOT_CA_DAYS:-3650}" -out "$root.cert.pem"
fi

if [ -e "$edge.key.pem" ]; then
    echo "$edge.key.pem is there already: remove it, or keep it elsewhere, to have another one made" >&2
    exit 1
fi
openssl genrsa -out "$edge.key.pem" 2048
openssl req -new -sha256 -config "$extensions" -key "$edge.key.pem" \
    -subj "/CN=$host Edge CA" -out "$edge.csr.pem"
openssl x509 -req -sha256 -in "$edge.csr.pem" -extfile "$extensions" -extensions edge_ca \
    -CA "$root.cert.pem" -CAkey "$root.key.pem" -set_serial "0x00$(openssl rand -hex 16)" \
    -days "${EDGE_CA_DAYS:-365}" -out "$edge.cert.pem"
# IoT Edge shows the whole chain, so that a device that trusts the root needs no other.
cat "$edge.cert.pem" "$root.cert.pem" >"$edge.chain.pem"
openssl verify -CAfile "$root.cert.pem" "$edge.cert.pem"

cat <<END

Now bring these to $host, by a safe way, and install them there as root:

  install -D -o aziotcs -g aziotcs -m 644 root-ca.cert.pem /var/aziot/certs/root-ca.cert.pem
  install -D -o aziotcs -g aziotcs -m 644 edge-ca-$host.chain.pem /var/aziot/certs/edge-ca-$host.chain.pem
  install -D -o aziotks -g aziotks -m 600 edge-ca-$host.key.pem /var/aziot/secrets/edge-ca-$host.key.pem

Then: iotedge config apply
END
