package admin

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"

	"registry-module/cache"
)

// hintNoRoom is for want of room.
const hintNoRoom = "make room on the disk, raise REGISTRY_CACHE_MAXSIZE, or remove what is pinned and not needed (registry-module gc --dry-run)"

// cause is a kind of failure, and what can be done about it.
type cause struct {
	is   func(error) bool // nil for what is known by its text only
	text []string         // in lower case, for errors that have come as texts
	hint string
}

// causes are in the order in which they are looked for: what is sure before what may have
// come of it.
var causes = []cause{
	{kind(cache.ErrLoop), []string{"in a circle", "508 loop"},
		"two registries fetch from each other: change REGISTRY_PROXY_REMOTEURL of one of them"},
	{kind(cache.ErrOffline), []string{"offline mode is on"},
		"it is not stored, and remotes are left alone: seed it before the site goes offline, or go back to what is configured (registry-module offline auto)"},
	{kind(syscall.EROFS), []string{"read-only file system"},
		"nothing can be written to the data directory: a file system that has become read-only has errors; look at the kernel's log, and replace the medium"},
	{kind(syscall.EIO), []string{"input/output error"},
		"the medium cannot be read or written: look at the kernel's log, and replace it"},
	{kind(cache.ErrNoSpace, syscall.ENOSPC, syscall.EDQUOT), []string{"no space left on device", "no space in the cache", "disk quota exceeded"}, hintNoRoom},
	{kind(syscall.EMFILE, syscall.ENFILE), []string{"too many open files"},
		"raise the limit of open files (ulimit -n)"},
	{kind(syscall.EACCES, syscall.EPERM), []string{"permission denied", "operation not permitted"},
		"give the user of the process the right to it: in the image that is user 65532 (chown -R 65532:65532 DIRECTORY)"},
	{kind(cache.ErrIntercepted), []string{"not an answer of the registry", "login page"},
		"somebody in between has answered, such as a login page or a proxy: log in to the network, or have the proxy let the registry through"},
	{status(http.StatusProxyAuthRequired), []string{"proxy authentication required"},
		"the proxy wants credentials: write them into REGISTRY_PROXY_HTTPPROXY_FILE"},
	{typed[*net.DNSError], []string{"no such host", "server misbehaving", "temporary failure in name resolution"},
		"the name is not found: see that the device has a name server that answers, and that the name in REGISTRY_PROXY_REMOTEURL is right (registry-module doctor)"},
	{expired, []string{"certificate has expired or is not yet valid"},
		"see that the clock of this device is right, then have the registry's certificate renewed"},
	{typed[x509.UnknownAuthorityError], []string{"signed by unknown authority"},
		"the registry has a certificate of an authority that is not known here: put the authority's certificate into the file of REGISTRY_PROXY_CA; if a firewall looks into TLS, that is the firewall's"},
	{typed[x509.HostnameError], []string{"certificate is valid for", "doesn't contain any ip sans", "is not valid for any names"},
		"the certificate is for another name: write the name that it has into REGISTRY_PROXY_REMOTEURL"},
	{typed[tls.RecordHeaderError], []string{"first record does not look like a tls handshake", "gave http response to https client"},
		"the registry speaks plain HTTP at this port: write its URL with http://, or the port of TLS"},
	{kind(syscall.ECONNREFUSED), []string{"connection refused"},
		"nothing listens there, or a firewall refuses: see that the host and port in REGISTRY_PROXY_REMOTEURL are right, and that the registry runs"},
	{kind(syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN), []string{"no route to host", "network is unreachable", "network is down"},
		"there is no way to the registry: see that the link is up, and that there is a default route"},
	{kind(cache.ErrRateLimited), []string{"rate limited", "too many requests", "toomanyrequests"},
		"the registry allows for no more at the moment, and nothing is asked before it does: give credentials (REGISTRY_PROXY_USERNAME), which mostly allow for more"},
	{kind(cache.ErrDenied), []string{"denied by the remote registry", "unauthorized", "authentication required"},
		"see that REGISTRY_PROXY_USERNAME and its password or token are right, not expired, and may pull this; some registries say so of images that do not exist"},
	{kind(cache.ErrNotFound), []string{"not found"},
		"the registry has no such image: see that name and tag are right, and that it is this registry that has it"},
	{kind(syscall.ECONNRESET, syscall.EPIPE, io.ErrUnexpectedEOF), []string{"connection reset", "broken pipe", "unexpected eof"},
		"the link or somebody in between has broken the connection off; downloads go on by themselves"},
	{timeout, []string{"timeout", "timed out", "deadline exceeded", "has stalled", "not done in time", "has not answered for"},
		"no answer has come in time: see that the link is up and not full, and that no firewall drops packets silently"},
	{serverError, []string{"internal server error", "bad gateway", "service unavailable"},
		"the registry has a problem of its own; it is asked again by itself"},
	{kind(cache.ErrInvalid), []string{"invalid answer from the remote registry", "is damaged", "wrong digest"},
		"what has come is not what was asked for, and was not stored: see whether a proxy in between changes content (registry-module doctor)"},
}

// kind tells of errors that are one of these.
func kind(all ...error) func(error) bool {
	return func(err error) bool {
		for _, one := range all {
			if errors.Is(err, one) {
				return true
			}
		}
		return false
	}
}

func typed[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

func expired(err error) bool {
	invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
	return ok && invalid.Reason == x509.Expired
}

func timeout(err error) bool {
	n, ok := errors.AsType[net.Error](err)
	return ok && n.Timeout() || errors.Is(err, context.DeadlineExceeded)
}

func status(code int) func(error) bool {
	return func(err error) bool {
		u, ok := errors.AsType[*cache.UpstreamError](err)
		return ok && u.Status == code
	}
}

func serverError(err error) bool {
	u, ok := errors.AsType[*cache.UpstreamError](err)
	return ok && u.Status >= 500
}

// hintOf is what can be done about err, empty where that is not known.
func hintOf(err error) string {
	for _, c := range causes {
		if c.is != nil && c.is(err) {
			return c.hint
		}
	}
	return hintOfText(err.Error())
}

// hintOfText is hintOf for an error of which only the text is left.
func hintOfText(text string) string {
	text = strings.ToLower(text)
	for _, c := range causes {
		for _, part := range c.text {
			if strings.Contains(text, part) {
				return c.hint
			}
		}
	}
	return ""
}
