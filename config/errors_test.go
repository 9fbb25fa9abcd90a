package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestErrors(t *testing.T) {
	certificate, key := newKeyPair(t)
	_, otherKey := newKeyPair(t)
	notPEM := write(t, "not.pem", "nothing")
	empty := write(t, "empty", "\n")
	// A pipe that nobody writes into, and that is not at its end.
	held := filepath.Join(t.TempDir(), "held")
	if err := syscall.Mkfifo(held, 0o600); err != nil {
		t.Fatal(err)
	}
	holder, err := os.OpenFile(held, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	const remote = "REGISTRY_PROXY_REMOTEURL=r.example.com"
	remoteURL := func(s string) []string { return []string{"REGISTRY_PROXY_REMOTEURL=" + s} }
	tests := []struct {
		name    string
		file    string
		environ []string
		want    []string // all of the problems in order, or a part of each
	}{
		{"syntax", "version: 0.1\nhttp:\n\taddr: x", nil, []string{"line 3: not readable as YAML: found character that cannot start any token"}},
		{"not a mapping", "just text", nil, []string{`line 1: not a configuration: write sections, beginning with "version: 0.1"`}},
		{"empty file", "# nothing\n", nil, []string{"REGISTRY_VERSION (version): is missing in"}},
		{"no version", "http: {}", nil, []string{"REGISTRY_VERSION (version): is missing in"}},
		{"unknown version", "version: 0.2", nil, []string{`REGISTRY_VERSION (version, line 1): "0.2" is not a version of the configuration that is known: write 0.1`}},
		{"alias", "version: 0.1\nproxy:\n  password: *x", nil, []string{"not readable as YAML: a value begins with * or &: put it in single quotes"}},
		{"anchor within itself", "version: 0.1\ncatalog: &x [*x]", nil, []string{"(catalog, line 2): is not a section"}},
		{"section is text", "version: 0.1\nproxy: r.example.com", nil, []string{"REGISTRY_PROXY (proxy, line 2): is not a section"}},
		{"list is text", "version: 0.1\nnotifications: {endpoints: x}", nil, []string{"REGISTRY_NOTIFICATIONS_ENDPOINTS (notifications.endpoints, line 2): is not a list"}},

		{"log level in a file", "version: 0.1\nlog:\n  level: loud", nil,
			[]string{`REGISTRY_LOG_LEVEL (log.level, line 3): "loud" is not a log level: write error, warn, info or debug`}},
		{"log level in a variable", "", []string{"REGISTRY_LOG_LEVEL=loud"},
			[]string{`REGISTRY_LOG_LEVEL (log.level): "loud" is not a log level: write error, warn, info or debug`}},
		{"log format", "", []string{"REGISTRY_LOG_FORMATTER=xml"}, []string{`"xml" is not a log format: write text, json, logstash or iotedge`}},
		{"bool", "", []string{"REGISTRY_PROXY_OFFLINE=maybe"}, []string{`REGISTRY_PROXY_OFFLINE (proxy.offline): "maybe" is not a yes or no: write true or false`}},
		{"number", "", []string{"REGISTRY_CATALOG_MAXENTRIES=many"}, []string{`"many" is not a whole number: write for example 100`}},
		{"stock duration", "version: 0.1\nhttp: {draintimeout: soon}", nil,
			[]string{`REGISTRY_HTTP_DRAINTIMEOUT (http.draintimeout, line 2): "soon" is not a duration: write for example 30s, 5m or 1h`}},
		{"negative stock duration", "", []string{"REGISTRY_HTTP_DRAINTIMEOUT=-1s"}, []string{`"-1s" is negative`}},
		{"name of a field unlike its key", "version: 0.1\nhealth: {file: [{interval: soon}]}", nil,
			[]string{`REGISTRY_HEALTH_FILECHECKERS_0_INTERVAL (health.file.0.interval, line 2): "soon" is not a duration`}},
		{"maximum number of tags", "", []string{"REGISTRY_TAGS_MAXTAGS=-1"}, []string{`REGISTRY_TAGS_MAXTAGS (tags.maxtags): "-1" is negative`}},
		{"list with a gap", "", []string{"REGISTRY_NOTIFICATIONS_ENDPOINTS_1_NAME=a"}, []string{"REGISTRY_NOTIFICATIONS_ENDPOINTS_1_NAME: there is no element 0 before it"}},

		{"other storage driver", "version: 0.1\nstorage: {s3: {bucket: b}}", nil,
			[]string{"REGISTRY_STORAGE_S3 (storage.s3): is a storage driver that is not supported: only filesystem is"}},
		{"other storage driver by name", "", []string{"REGISTRY_STORAGE=gcs"}, []string{"REGISTRY_STORAGE_GCS (storage.gcs): is a storage driver"}},
		{"mistyped storage driver", "version: 0.1\nstorage: {filesytem: {}}", nil, []string{`(did you mean "filesystem"?)`}},
		{"second storage driver", "", []string{"REGISTRY_STORAGE_INMEMORY_X=1"},
			[]string{`REGISTRY_STORAGE (storage): "filesystem inmemory" is more than one storage driver`, "REGISTRY_STORAGE_INMEMORY (storage.inmemory)"}},
		{"storage is a list", "version: 0.1\nstorage: [filesystem]", nil, []string{"REGISTRY_STORAGE (storage, line 2): is not a section"}},
		{"delete", "", []string{"REGISTRY_STORAGE_DELETE_ENABLED='yes please'"}, []string{`REGISTRY_STORAGE_DELETE_ENABLED (storage.delete.enabled): "yes please" is not a yes or no`}},
		{"redirect", "version: 0.1\nstorage: {redirect: {disable: 'true'}}", nil, []string{`"true" is not a yes or no: write true or false, without quotes`}},
		{"tag concurrency", "", []string{"REGISTRY_STORAGE_TAG_CONCURRENCYLIMIT=-8"}, []string{`"-8" is negative`}},
		{"tag concurrency type", "", []string{"REGISTRY_STORAGE_TAG_CONCURRENCYLIMIT=few"}, []string{`"few" is not a whole number`}},
		{"read-only is no section", "", []string{"REGISTRY_STORAGE_MAINTENANCE_READONLY=true"}, []string{`(storage.maintenance.readonly): "true" is not a section`}},
		{"read-only", "", []string{"REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED=x"}, []string{`(storage.maintenance.readonly.enabled): "x" is not a yes or no`}},
		{"purging", "version: 0.1\nstorage: {maintenance: {uploadpurging: {enabled: true, age: 1}}}", nil,
			[]string{`uploadpurging.age): "1" is not text: put it in quotes`, "uploadpurging.dryrun): is missing", "uploadpurging.interval): is missing"}},
		{"purging duration", "version: 0.1\nstorage: {maintenance: {uploadpurging: {age: old, interval: 1h, dryrun: false}}}", nil,
			[]string{`uploadpurging.age): "old" is not a duration`}},

		{"address", "", []string{"REGISTRY_HTTP_ADDR=8000"}, []string{`REGISTRY_HTTP_ADDR (http.addr): "8000" is not an address to listen on: write a port, for example :8000`}},
		{"port", "", []string{"REGISTRY_HTTP_ADDR=:80000"}, []string{`":80000" is not an address`}},
		{"admin address", "", []string{"REGISTRY_HTTP_DEBUG_ADDR=off"}, []string{`REGISTRY_HTTP_DEBUG_ADDR (http.debug.addr): "off" is not an address`}},
		{"both at one address", "", []string{"REGISTRY_HTTP_DEBUG_ADDR=:8000"}, []string{`":8000" is the address of http.addr as well`}},
		{"network", "", []string{"REGISTRY_HTTP_NET=udp"}, []string{`"udp" is not a network`}},
		{"host", "", []string{"REGISTRY_HTTP_HOST=registry.example.com"}, []string{`"registry.example.com" is not a URL`}},
		{"prefix", "", []string{"REGISTRY_HTTP_PREFIX=a/"}, []string{`"a/" is not a path: begin it with a slash`}},
		{"metrics", "", []string{"REGISTRY_HTTP_DEBUG_PROMETHEUS_PATH=metrics"}, []string{`(http.debug.prometheus.path): "metrics" is not a path for metrics`}},
		{"metrics at the path of health", "", []string{"REGISTRY_HTTP_DEBUG_PROMETHEUS_PATH=/healthz"}, []string{`"/healthz" is not a path for metrics`}},
		{"letsencrypt", "", []string{"REGISTRY_HTTP_TLS_LETSENCRYPT_EMAIL=a@example.com"}, []string{"REGISTRY_HTTP_TLS_LETSENCRYPT (http.tls.letsencrypt): is not supported"}},
		{"certificate without key", "", []string{"REGISTRY_HTTP_TLS_CERTIFICATE=" + certificate}, []string{"REGISTRY_HTTP_TLS_KEY (http.tls.key): is missing, but http.tls.certificate is set"}},
		{"certificate with another key", "", []string{"REGISTRY_HTTP_TLS_CERTIFICATE=" + certificate, "REGISTRY_HTTP_TLS_KEY=" + otherKey},
			[]string{"is no certificate that goes with http.tls.key (tls: private key does not match public key)"}},
		{"client certificates", "", []string{"REGISTRY_HTTP_TLS_CLIENTCAS=[/absent, " + notPEM + "]"},
			[]string{`"/absent" cannot be read (no such file or directory)`, "has no certificate in PEM form"}},
		{"client authentication", "", []string{"REGISTRY_HTTP_TLS_CLIENTAUTH=always"}, []string{`"always" is not a way to ask for client certificates: write request-client-cert, `}},
		{"TLS version", "", []string{"REGISTRY_HTTP_TLS_MINIMUMTLS=tls1.0"}, []string{`"tls1.0" is not a version of TLS that is supported: write tls1.2 or tls1.3`}},
		{"cipher suite", "", []string{"REGISTRY_HTTP_TLS_CIPHERSUITES=[TLS_AES_128_GCM_SHA256, ROT13]"}, []string{`"ROT13" is not a cipher suite`}},

		{"kind of access control", "", []string{"REGISTRY_AUTH=silly"}, []string{"REGISTRY_AUTH_SILLY (auth.silly): is not a kind of access control that is supported: write htpasswd, token or none"}},
		{"two kinds", "version: 0.1\nauth: {none: {}, silly: {}}", nil, []string{`REGISTRY_AUTH (auth, line 2): is more than one kind of access control: keep only one`, "auth.silly"}},
		{"htpasswd", "", []string{"REGISTRY_AUTH_HTPASSWD_REALM=12"},
			[]string{`(auth.htpasswd.path): is missing`, `(auth.htpasswd.realm): "12" is not text: put it in quotes`}},
		{"token", "version: 0.1\nauth: {token: {realm: r, autoredirect: 1, signingalgorithms: RS256, jwks: /absent}}", nil,
			[]string{`(auth.token.autoredirect): "1" is not a yes or no`, "(auth.token.issuer): is missing", `(auth.token.jwks): "/absent" cannot be read`,
				"(auth.token.service): is missing", `(auth.token.signingalgorithms): "RS256" is not a list`}},
		{"token without keys", "version: 0.1\nauth: {token: {realm: r, issuer: i, service: s}}", nil,
			[]string{"REGISTRY_AUTH_TOKEN_ROOTCERTBUNDLE (auth.token.rootcertbundle): is missing"}},

		{"notification", "version: 0.1\nnotifications:\n  endpoints:\n  - url: example.com\n    timeout: -1s\n  - disabled: true", nil,
			[]string{"REGISTRY_NOTIFICATIONS_ENDPOINTS_0_NAME (notifications.endpoints.0.name): is missing",
				`(notifications.endpoints.0.timeout, line 5): "-1s" is negative`, `(notifications.endpoints.0.url, line 4): "example.com" is not a URL`}},
		{"patterns", "version: 0.1\nvalidation: {manifests: {urls: {allow: ['(', ok], deny: ['[']}}}", nil,
			[]string{`urls.allow, line 2): "(" is not a regular expression`, `urls.deny, line 2): "[" is not a regular expression`}},
		{"platforms", "", []string{"REGISTRY_VALIDATION_MANIFESTS_INDEXES_PLATFORMS=some"}, []string{`"some" is not a choice of platforms: write all, none or list`}},

		{"negative tag lifetime", "", []string{"REGISTRY_PROXY_TAGTTL=-5m"}, []string{`REGISTRY_PROXY_TAGTTL (proxy.tagttl): "-5m" is negative: write for example 30s, 5m or 168h`}},
		{"tag lifetime without unit", "", []string{"REGISTRY_PROXY_TAGTTL=300"}, []string{`"300" is not a duration: it has no unit: write for example 300s or 300m`}},
		{"tag lifetime in days", "version: 0.1\nproxy: {tagttl: 7d}", nil, []string{`REGISTRY_PROXY_TAGTTL (proxy.tagttl, line 2): "7d" is not a duration`}},
		{"rules for tags", "version: 0.1\nproxy:\n  remoteurl: r\n  tagrules: [latest, a=1h, 'Team/x:a=1h', 'r.test/x:a=1h', b=7d]", nil,
			[]string{`REGISTRY_PROXY_TAGRULES (proxy.tagrules, line 4): "latest" is not a rule: write [REPOSITORIES:]TAGS=POLICY, for example semver=immutable`,
				`"Team/x:a=1h" has a pattern for repositories that has characters that are in no name of a repository`,
				`"r.test/x:a=1h" has a pattern for repositories that begins with what looks like a host: write names as the remote knows them, for example x;`,
				`"b=7d" has the policy "7d": write immutable, always, or a duration`}},
		{"rules for tags that never apply", "", []string{remote, "REGISTRY_PROXY_TAGRULES=*=10m semver=immutable"},
			[]string{`REGISTRY_PROXY_TAGRULES (proxy.tagrules): "semver=immutable" never applies, since the first rule that matches decides and *=10m before it matches all that it does: write it before that one, or remove it`}},
		{"rules for tags of Docker Hub", "", []string{"REGISTRY_PROXY_REMOTEURL=docker.io", "REGISTRY_PROXY_TAGRULES=nginx:latest=always, *:stable=1h"},
			[]string{`"nginx:latest=always" is for no repository of Docker Hub, where nginx is library/nginx: write names with their owner, for example library/nginx:latest=always`, `for example library/*:stable=1h`}},
		{"braces without end in one of several", "", []string{remote, "REGISTRY_PROXY_TAGRULES=a{b=1h c=1h,d=1h"}, []string{`"a{b=1h" has no pattern for tags`}},
		{"time of revalidation", "", []string{remote, "REGISTRY_PROXY_STALEWHILEREVALIDATE=-1m"},
			[]string{`REGISTRY_PROXY_STALEWHILEREVALIDATE (proxy.stalewhilerevalidate): "-1m" is negative`}},
		{"limit of age", "version: 0.1\nproxy: {maxstale: none}", nil, []string{`REGISTRY_PROXY_MAXSTALE (proxy.maxstale, line 2): "none" is not a duration: write for example 30s, 5m or 168h`}},
		{"time of absence", "", []string{remote, "REGISTRY_PROXY_NEGATIVETTL=30"}, []string{`REGISTRY_PROXY_NEGATIVETTL (proxy.negativettl): "30" is not a duration: it has no unit`}},
		{"all that is about tags", "", []string{remote, "REGISTRY_PROXY_TAGTTL=x", "REGISTRY_PROXY_TAGRULES=x", "REGISTRY_PROXY_STALEWHILEREVALIDATE=x", "REGISTRY_PROXY_MAXSTALE=x", "REGISTRY_PROXY_NEGATIVETTL=x"},
			[]string{"(proxy.maxstale)", "(proxy.negativettl)", "(proxy.stalewhilerevalidate)", "(proxy.tagrules)", "(proxy.tagttl)"}},
		{"age limit", "", []string{"REGISTRY_PROXY_TTL=never"}, []string{`REGISTRY_PROXY_TTL (proxy.ttl): "never" is not a duration`}},
		{"size", "", []string{"REGISTRY_CACHE_MAXSIZE=big"}, []string{`REGISTRY_CACHE_MAXSIZE (cache.maxsize): "big" is not a size: write a number and a unit, for example 20GiB or 500MB`}},
		{"size without unit", "", []string{"REGISTRY_CACHE_MAXSIZE=20"}, []string{`"20" is a size in bytes, without unit: write for example 20GiB`}},
		{"hardly any size", "", []string{"REGISTRY_CACHE_MAXSIZE=63MiB"}, []string{`REGISTRY_CACHE_MAXSIZE (cache.maxsize): "63MiB" is too little: it is for all below the data directory, and the index alone can take 40 MB; write at least 64MiB`}},
		{"pins", "", []string{"REGISTRY_CACHE_PINS=Team/app team/ a:b:c team/app@sha256:1"}, []string{
			`REGISTRY_CACHE_PINS (cache.pins): "Team/app" has characters that are in no name of a repository`,
			`"team/" has a slash at its beginning or end`, `"a:b:c" has characters that are in no name of a repository`, `is not the digest of an image`}},
		{"pins in a file", "version: 0.1\ncache: {pins: ['{a', 'a:']}", nil, []string{
			`REGISTRY_CACHE_PINS (cache.pins, line 2): "{a" is not a pattern`, `"a:" ends where a tag or a digest is wanted`}},
		{"interval of scrub", "", []string{"REGISTRY_CACHE_SCRUBINTERVAL=7d"}, []string{`REGISTRY_CACHE_SCRUBINTERVAL (cache.scrubinterval): "7d" is not a duration`}},
		{"rate of scrub", "", []string{"REGISTRY_CACHE_SCRUBRATE=8"}, []string{`REGISTRY_CACHE_SCRUBRATE (cache.scrubrate): "8" is not a bandwidth`}},
		{"size with comma", "", []string{"REGISTRY_CACHE_MAXSIZE=1,5GiB"}, []string{`"1,5GiB" is not a size: write it without comma`}},
		{"negative size", "", []string{"REGISTRY_CACHE_MAXSIZE=-1GiB"}, []string{`"-1GiB" is not a size`}},
		{"free space", "", []string{"REGISTRY_CACHE_MINFREE=100%"}, []string{`REGISTRY_CACHE_MINFREE (cache.minfree): "100%" is not a percentage from 0% to below 100%`}},
		{"free space in words", "", []string{"REGISTRY_CACHE_MINFREE=some"}, []string{`"some" is not a size: write a number and a unit, for example 20GiB or 500MB, or a percentage, for example 10%`}},

		{"lifetime of bindings", "", []string{"REGISTRY_CACHE_BINDINGTTL=30d"}, []string{`REGISTRY_CACHE_BINDINGTTL (cache.bindingttl): "30d" is not a duration`}},

		{"no connections", "", []string{remote, "REGISTRY_PROXY_CONNECTIONS=0"},
			[]string{`REGISTRY_PROXY_CONNECTIONS (proxy.connections): "0" is not a whole number from 1 to 16: write for example 4`}},
		{"many connections", "version: 0.1\nproxy: {connections: 17, maxconnections: 257}", nil,
			[]string{`(proxy.connections, line 2): "17" is not`, `REGISTRY_PROXY_MAXCONNECTIONS (proxy.maxconnections, line 2): "257" is not a whole number from 1 to 256: write for example 16`}},
		{"connections in words", "", []string{remote, "REGISTRY_PROXY_CONNECTIONS=some"}, []string{`"some" is not a whole number from 1 to 16`}},
		{"fewer connections in all than for one blob", "", []string{remote, "REGISTRY_PROXY_CONNECTIONS=4", "REGISTRY_PROXY_MAXCONNECTIONS=3"},
			[]string{`REGISTRY_PROXY_MAXCONNECTIONS (proxy.maxconnections): "3" is less than proxy.connections, which is 4: write at least that`}},
		{"offline at no day", "", []string{remote, "REGISTRY_PROXY_OFFLINESCHEDULE=Mon,Wed 08:00-18:00"},
			[]string{`REGISTRY_PROXY_OFFLINESCHEDULE (proxy.offlineschedule): "Mon,Wed 08:00-18:00" has "Mon", which is not days and times: write for example Mon-Fri 08:00-18:00, and a comma between windows`}},
		{"bandwidth", "", []string{remote, "REGISTRY_PROXY_BANDWIDTH=fast"},
			[]string{`REGISTRY_PROXY_BANDWIDTH (proxy.bandwidth): "fast" is not a bandwidth: write a number and a unit of bytes or bits, for example 20MiB/s or 160Mbit/s`}},
		{"bandwidth without unit", "version: 0.1\ncache: {bandwidth: 20}", nil, []string{`REGISTRY_CACHE_BANDWIDTH (cache.bandwidth, line 2): "20" is not a bandwidth`}},
		{"bandwidth with comma", "", []string{"REGISTRY_CACHE_BANDWIDTH=1,5MiB/s"}, []string{`"1,5MiB/s" is not a bandwidth: write it without comma`}},
		{"hardly any bandwidth", "", []string{"REGISTRY_CACHE_BANDWIDTH=56bit/s"}, []string{`"56bit/s" is too little: write at least 1KiB/s, or 0 for no limit`}},
		{"stall timeout", "", []string{remote, "REGISTRY_PROXY_STALLTIMEOUT=30"}, []string{`REGISTRY_PROXY_STALLTIMEOUT (proxy.stalltimeout): "30" is not a duration: it has no unit`}},
		{"no stall timeout", "", []string{remote, "REGISTRY_PROXY_STALLTIMEOUT=0s"}, []string{`REGISTRY_PROXY_STALLTIMEOUT (proxy.stalltimeout): "0s" is no time at all: write for example 30s`}},
		{"time of retries", "", []string{remote, "REGISTRY_PROXY_RETRYFOR=-1s"}, []string{`REGISTRY_PROXY_RETRYFOR (proxy.retryfor): "-1s" is negative`}},
		{"prefetching", "", []string{"REGISTRY_CACHE_PREFETCH=all"}, []string{`REGISTRY_CACHE_PREFETCH (cache.prefetch): "all" is not a yes or no: write true or false`}},
		{"resuming", "version: 0.1\ncache: {resume: later}", nil, []string{`REGISTRY_CACHE_RESUME (cache.resume, line 2): "later" is not a yes or no`}},
		{"age of what is unfinished", "", []string{"REGISTRY_CACHE_PARTIALTTL=7d"}, []string{`REGISTRY_CACHE_PARTIALTTL (cache.partialttl): "7d" is not a duration`}},

		{"remote with a query", "", remoteURL("https://a?token=hunter2"), []string{`"https://a?..." cannot be used: the URL of the remote registry a has a query or a fragment: write only scheme and host`}},
		{"remote with a fragment", "", remoteURL("a#hunter2"), []string{`"a#..." cannot be used`}},
		{"remote with spaces", "", remoteURL("a b"), []string{`REGISTRY_PROXY_REMOTEURL (proxy.remoteurl): "a b" cannot be used: `}},
		{"remote with another scheme", "", remoteURL("ftp://a"), []string{`"ftp://a" cannot be used: the remote registry a has the scheme "ftp": write https:// or http://`}},
		{"remote with a path", "", remoteURL("https://a/b"), []string{`"https://a/b" cannot be used: the URL of the remote registry a has the path "/b"`}},
		{"remote without host", "", remoteURL("https://"), []string{`"https://" cannot be used: the URL of a remote registry has no host`}},
		{"remote with port 0", "", remoteURL("a:0"), []string{`"a:0" cannot be used: the remote registry a has the port "0"`}},
		{"remote with user", "", remoteURL("https://user:word@a"), []string{`"https://REDACTED@a" has a user name in the URL: write it as proxy.username and proxy.password (REGISTRY_PROXY_USERNAME, REGISTRY_PROXY_PASSWORD)`}},
		{"user name alone", "", []string{remote, "REGISTRY_PROXY_USERNAME=u"}, []string{"REGISTRY_PROXY_PASSWORD (proxy.password): is missing, but proxy.username is set"}},
		{"password alone", "", []string{remote, "REGISTRY_PROXY_PASSWORD=p"}, []string{"REGISTRY_PROXY_USERNAME (proxy.username): is missing, but a password is set"}},
		{"password twice", "", []string{remote, "REGISTRY_PROXY_USERNAME=u", "REGISTRY_PROXY_PASSWORD=p", "REGISTRY_PROXY_PASSWORD_FILE=/f"},
			[]string{`REGISTRY_PROXY_PASSWORD_FILE (proxy.passwordfile): "/f" is set, and proxy.password too`}},
		{"absent password file", "", []string{remote, "REGISTRY_PROXY_USERNAME=u", "REGISTRY_PROXY_PASSWORD_FILE=/absent"},
			[]string{`REGISTRY_PROXY_PASSWORD_FILE (proxy.passwordfile): "/absent" cannot be read (no such file or directory)`}},
		{"password file that is a pipe", "", []string{remote, "REGISTRY_PROXY_USERNAME=u", "REGISTRY_PROXY_PASSWORD_FILE=" + held},
			[]string{"cannot be read (not a regular file, but a pipe or a device): write the path"}},
		{"certificates that are a directory", "", []string{remote, "REGISTRY_PROXY_CA=/"}, []string{`"/" cannot be read (is a directory)`}},
		{"empty password file", "", []string{remote, "REGISTRY_PROXY_USERNAME=u", "REGISTRY_PROXY_PASSWORD_FILE=" + empty}, []string{"is empty: write the password into it"}},
		{"alias", "", []string{remote, "REGISTRY_PROXY_ALIAS=a/b"}, []string{`REGISTRY_PROXY_ALIAS (proxy.alias): "a/b" is not a path component`}},
		{"certificate authority", "", []string{remote, "REGISTRY_PROXY_CA=" + notPEM}, []string{"REGISTRY_PROXY_CA (proxy.ca)"}},
		{"client certificate without key", "", []string{remote, "REGISTRY_PROXY_CERTIFICATE=" + certificate}, []string{"REGISTRY_PROXY_KEY (proxy.key): is missing"}},
		{"client key without certificate", "", []string{remote, "REGISTRY_PROXY_KEY=" + key}, []string{"REGISTRY_PROXY_CERTIFICATE (proxy.certificate): is missing"}},
		{"client certificate of absent files", "", []string{remote, "REGISTRY_PROXY_CERTIFICATE=/a", "REGISTRY_PROXY_KEY=/b"},
			[]string{`"/a" cannot be read`, `"/b" cannot be read`}},
		{"realm", "", []string{remote, "REGISTRY_PROXY_ALLOWEDREALMS=https://auth.example.com/token"}, []string{`"https://auth.example.com/token" is not a host`}},

		{"middleware", "version: 0.1\nmiddleware: {storage: [{name: cloudfront}, {name: redirect, disabled: true}], registry: [{name: x}]}", nil,
			[]string{`(middleware.registry): "x" is a middleware`, `(middleware.storage): "cloudfront" is a middleware, and none is supported`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := loadWith(t, tt.file, tt.environ...)
			errs, ok := errors.AsType[*Errors](err)
			if !ok || c != nil {
				t.Fatalf("got %v, %v, want problems", c, err)
			}
			if len(errs.Problems) != len(tt.want) {
				t.Fatalf("got %v, want %d problems", err, len(tt.want))
			}
			for i, want := range tt.want {
				if got := errs.Problems[i].Error(); !strings.Contains(got, want) {
					t.Errorf("got  %s\nwant %s", got, want)
				}
			}
		})
	}
}

// TestAllErrorsAtOnce shows what an operator sees who got much wrong, in the
// file and in variables, of the stock settings and of ours.
func TestAllErrorsAtOnce(t *testing.T) {
	file := write(t, "config.yml", `version: 0.1
log:
  level: loud
http:
  addr: 8000
  draintimeout: soon
storage:
  azure: {}
proxy:
  tagttl: 7 days
`)
	_, err := source{environ: []string{
		"REGISTRY_CATALOG_MAXENTRIES=many",
		"REGISTRY_TAGS_MAXTAGS=none",
		"REGISTRY_CACHE_MINFREE=120%",
		"REGISTRY_PROXY_REMOTEURL=https://user:hunter2@registry.example.com",
		"REGISTRY_PROXY_PASSWORD=hunter2",
	}}.load(file)
	want := "10 errors in the configuration (" + file + ` and environment):
  REGISTRY_CACHE_MINFREE (cache.minfree): "120%" is not a percentage from 0% to below 100%: write for example 10%
  REGISTRY_CATALOG_MAXENTRIES (catalog.maxentries): "many" is not a whole number: write for example 100
  REGISTRY_HTTP_ADDR (http.addr, line 5): "8000" is not an address to listen on: write a port, for example :8000, or address and port, for example 127.0.0.1:8000
  REGISTRY_HTTP_DRAINTIMEOUT (http.draintimeout, line 6): "soon" is not a duration: write for example 30s, 5m or 1h
  REGISTRY_LOG_LEVEL (log.level, line 3): "loud" is not a log level: write error, warn, info or debug
  REGISTRY_PROXY_REMOTEURL (proxy.remoteurl): "https://REDACTED@registry.example.com" has a user name in the URL: write it as proxy.username and proxy.password (REGISTRY_PROXY_USERNAME, REGISTRY_PROXY_PASSWORD)
  REGISTRY_PROXY_TAGTTL (proxy.tagttl, line 10): "7 days" is not a duration: write for example 30s, 5m or 168h
  REGISTRY_PROXY_USERNAME (proxy.username): is missing, but a password is set: set it, or remove the password for anonymous access
  REGISTRY_STORAGE_AZURE (storage.azure): is a storage driver that is not supported: only filesystem is
  REGISTRY_TAGS_MAXTAGS (tags.maxtags): "none" is not a whole number: write for example 100`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if p, ok := errors.AsType[*Problem](err); !ok || p.Key != "cache.minfree" {
		t.Errorf("the problems are not reachable through the error: %v", p)
	}
}

// TestSecretsAreNotShown puts a secret wherever one can be, together with
// something that is wrong with it or near it.
func TestSecretsAreNotShown(t *testing.T) {
	const secret = "hunter2"
	files := []string{
		"version: 0.1\nproxy: {password: [hunter2]}",
		"version: 0.1\nproxy: {password: {hunter2: 1}}",
		"version: 0.1\nproxy: hunter2",
		"version: 0.1\nproxy: [hunter2]",
		"version: 0.1\nproxy: {exec: {command: hunter2, lifetime: hunter2}}",
		"version: 0.1\nproxy: {exec: hunter2}",
		"version: 0.1\nproxy: {remotes: hunter2}",
		"version: 0.1\nproxy: {remotes: [hunter2]}",
		"version: 0.1\nproxy: {remotes: [{password: [hunter2]}]}",
		"version: 0.1\nproxy: {remotes: [{identitytoken: [hunter2]}]}",
		"version: 0.1\nproxy: {remotes: [{identitytoken: hunter2, identitytokenfile: /absent}]}",
		"version: 0.1\nproxy: {remotes: [{exec: {command: hunter2, lifetime: -1s}}]}",
		"version: 0.1\nproxy: {remotes: [{exec: {command: hunter2}}]}",
		"version: 0.1\nproxy: {remotes: [{password: hunter2}]}",
		"version: 0.1\nproxy: {remotes: [{remoteurl: 'https://hunter2@a'}]}",
		"version: 0.1\nproxy: {httpproxy: [hunter2]}",
		"version: 0.1\nproxy: {httpproxy: 'ftp://u:hunter2@a'}",
		"version: 0.1\nproxy: {httpproxy: 'http://u:hunter2@a:b'}",
		"version: 0.1\nproxy: {httpproxy: 'u:hunter2'}",
		"version: 0.1\nproxy: {namespaces: 'u:hunter2@a'}",
		"version: 0.1\nproxy: {remoteurl: 'https://hunter2@a'}",
		"version: 0.1\nproxy: {remoteurl: 'hunter2@a b'}",
		"version: 0.1\nproxy: {remoteurl: 'ftp://u:hunter2@a/b@c'}",
		"version: 0.1\nhttp: {secret: [hunter2]}",
		"version: 0.1\nhttp: {host: 'ftp://u:hunter2@a'}",
		"version: 0.1\nhttp: {headers: {Authorization: hunter2}}",
		"version: 0.1\nredis: {password: [hunter2], sentinelpassword: [hunter2]}",
		"version: 0.1\nnotifications: {endpoints: [{headers: {Authorization: hunter2}}]}",
		"version: 0.1\nnotifications: {endpoints: [{url: 'ftp://hunter2@a'}]}",
		"version: 0.1\nnotifications: {endpoints: hunter2}",
		"version: 0.1\nmiddleware: {storage: [{name: a, options: {key: hunter2}}]}",
		"version: 0.1\nmiddleware: {storage: {key: hunter2}}",
		"version: 0.1\nproxy:\n  password: *hunter2",
		"version: 0.1\nproxy:\n  password: *hunter2\n  username: &hunter2 [*hunter2]",
		"version: 0.1\nproxy: {remoteurl: 'https://a?token=hunter2'}",
		"version: 0.1\nproxy: {remoteurl: 'a?hunter2'}",
		"version: 0.1\nproxy: {remoteurl: 'a#hunter2'}",
		"version: 0.1\nproxy: {remoteurl: a, username: u, passwordfile: hunter2}",
		"version: 0.1\nproxy: {remoteurl: a, username: u, passwordfile: hun/hunter2}",
		"version: 0.1\nproxy: {remoteurl: a, username: u, password: x, passwordfile: hunter2}",
		"version: 0.1\nproxy: {remoteurl: a, username: u, password: x, identitytokenfile: hunter2}",
		"version: 0.1\nproxy: {remoteurl: a, dockerconfig: '{\"auths\":{\"a\":{\"auth\":\"hunter2\"}}}'}",
		"version: 0.1\nhttp: {host: 'ftp://a?hunter2'}",
		"version: 0.1\nstorage: {s3: {secretkey: *hunter2}}",
		"version: 0.1\nstorage: {s3: {secretkey: hunter2}}",
		"version: 0.1\nstorage: {s3: hunter2}",
		"version: 0.1\nstorage: {s3: [hunter2]}",
		"version: 0.1\ncatalog: {maxentries: !!int hunter2}",
		"version: 0.1\nlog: {hooks: [{options: {smtp: {password: [hunter2]}}}]}",
	}
	for _, file := range files {
		c, err := loadWith(t, file)
		if err == nil {
			t.Errorf("%s: no error, but %+v", file, c)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the secret is in %q", file, err)
		}
	}
	for _, environ := range []string{
		"REGISTRY_PROXY_PASSWORD=[hunter2",
		"REGISTRY_PROXY_PASSWORD=*hunter2",
		"REGISTRY_PROXY_PASSWORD={hunter2: 1}",
		"REGISTRY_PROXY_PASSWORD_2=hunter2",
		"REGISTRY_PROXY_IDENTITYTOKEN_3=hunter2",
		"REGISTRY_PROXY_IDENTITYTOKEN_3=[hunter2",
		"REGISTRY_PROXY_EXEC_COMMAND_2=[hunter2",
		"REGISTRY_PROXY_EXEC_COMMAND_2=hunter2",
		"REGISTRY_PROXY_EXEC_2=hunter2",
		"REGISTRY_PROXY_HTTPPROXY_2=*hunter2",
		"REGISTRY_PROXY_HTTPPROXY_2=hunter2",
		"REGISTRY_PROXY_REMOTES=[hunter2]",
		"REGISTRY_PROXY_REMOTES_0=hunter2",
		"REGISTRY_NOTIFICATIONS_ENDPOINTS_0=hunter2",
		"REGISTRY_PROXY={password: [hunter2]}",
		"REGISTRY_PROXY=hunter2",
		"REGISTRY_HTTP={secret: [hunter2]}",
		"REGISTRY_HTTP_SECRET=*hunter2",
		"REGISTRY_REDIS={password: [hunter2]}",
		"REGISTRY_REDIS_PASSWORD=[hunter2]",
		"REGISTRY_NOTIFICATIONS={endpoints: hunter2}",
		"REGISTRY_NOTIFICATIONS_ENDPOINTS=[{headers: {A: hunter2}}]",
		"REGISTRY_NOTIFICATIONS_ENDPOINTS_0_HEADERS={A: hunter2}",
		"REGISTRY_AUTH=[hunter2]",
		"REGISTRY_STORAGE={s3: {secretkey: *hunter2",
		"REGISTRY_STORAGE={s3: {secretkey: *hunter2}}",
		"REGISTRY_STORAGE=[hunter2]",
		"REGISTRY_STORAGE_S3={secretkey: *hunter2",
		"REGISTRY_STORAGE_S3=*hunter2",
		"REGISTRY_STORAGE_S3_SECRETKEY=*hunter2",
		"REGISTRY_STORAGE_S3_ACCESSKEY=*hunter2",
		"REGISTRY_STORAGE_AZURE_ACCOUNTKEY=*hunter2",
		"REGISTRY_STORAGE_AZURE_CREDENTIALS_CLIENT_SECRET=*hunter2",
		"REGISTRY_STORAGE_OSS_ACCESSKEYSECRET=*hunter2",
		"REGISTRY_LOG={hooks: [{options: {smtp: {password: *hunter2",
		"REGISTRY_LOG_HOOKS=[{options: {smtp: {password: hunter2",
		"REGISTRY_HEALTH_HTTPCHECKERS_0={headers: {A: [hunter2",
		"REGISTRY_MIDDLEWARE_STORAGE=[{name: x, options: {privatekey: hunter2",
		"REGISTRY_MIDDLEWARE_STORAGE_0={name: x, options: {privatekey: *hunter2",
		"REGISTRY_PROXY_REMOTEURL=https://a/?token=hunter2",
		"REGISTRY_PROXY_REMOTEURL_2=a?hunter2",
		"REGISTRY_PROXY_IDENTITYTOKEN_FILE_2=hunter2",
	} {
		c, err := loadWith(t, "", environ)
		if err == nil {
			t.Errorf("%s: no error, but %+v", environ, c)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the secret is in %q", environ, err)
		}
	}
	c := mustLoad(t, "", "REGISTRY_PROXY_REMOTEURL=a", "REGISTRY_PROXY_USERNAME=u", "REGISTRY_PROXY_PASSWORD=hunter2 # comment")
	if len(c.Warnings) != 1 || strings.Contains(c.Warnings[0], secret) {
		t.Errorf("warnings: %q", c.Warnings)
	}
}

// newKeyPair returns the paths of a new certificate and its key.
func newKeyPair(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		write(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
}
