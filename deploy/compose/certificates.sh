#!/bin/sh
# Makes the certificates of the playground below certificates/: one root that all
# trust, and for each layer a certificate authority of its own with a server
# certificate for its proxy, as the layers of an IoT Edge hierarchy have them.
# Run again, it keeps the root and makes the rest anew.
#
# It needs openssl, and nothing else. Keys are for the playground only: nobody
# guards them.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p certificates
cd certificates

# request NAME SUBJECT: a new key and a request to have it certified.
request() {
	openssl req -new -newkey rsa:2048 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2" 2>/dev/null
}

# sign NAME ISSUER DAYS EXTENSIONS: the certificate for the request.
sign() {
	printf '%s\n' "$4" >"$1.ext"
	openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -CAcreateserial -days "$3" -sha256 \
		-extfile "$1.ext" -out "$1.pem" 2>/dev/null
	rm "$1.csr" "$1.ext"
}

if [ ! -e root.pem ]; then
	openssl req -x509 -newkey rsa:2048 -nodes -keyout root.key -out root.pem -days 3650 -sha256 \
		-subj "/CN=playground root" -addext "keyUsage=critical,keyCertSign,cRLSign" 2>/dev/null
fi

# The proxies are all called IoTEdgeAPIProxy, and that is the name by which the one
# below checks the one above. The other names are for clients.
for layer in top middle bottom; do
	names="DNS:$layer.playground,DNS:IoTEdgeAPIProxy,DNS:localhost"
	request "$layer-ca" "/CN=edge CA of $layer.playground"
	sign "$layer-ca" root 365 "basicConstraints=critical,CA:true,pathlen:0
keyUsage=critical,keyCertSign,cRLSign"
	request "$layer" "/CN=$layer.playground"
	sign "$layer" "$layer-ca" 90 "basicConstraints=CA:false
keyUsage=critical,digitalSignature,keyEncipherment
extendedKeyUsage=serverAuth
subjectAltName=$names"
	# The server's certificate first, then who has signed it.
	cat "$layer.pem" "$layer-ca.pem" >"$layer-chain.pem"
done
# Certificates are public; keys stay with who has made them.
chmod 0644 ./*.pem
chmod 0755 .
echo "made $(pwd): clients trust root.pem"
