package config

import (
	"strings"
	"time"
)

// Defaults of the check of callers' own credentials.
const (
	// DefaultPassThroughTTL is how long a verdict of a remote about a caller holds: short
	// enough for who was locked out there, and long enough for all of a pull.
	DefaultPassThroughTTL = 10 * time.Minute
	// DefaultPassThroughGrace is for how long it goes on to hold while the remote cannot be
	// asked: a week, so that a site goes on working while its link is mended.
	DefaultPassThroughGrace = 168 * time.Hour
)

// accessSection says who may pull what.
type accessSection struct {
	Policy string `yaml:"policy,omitempty"`
	CRLs   list   `yaml:"crls,omitempty"`
}

// iotEdgeSection says what comes from the IoT Edge runtime.
type iotEdgeSection struct {
	ServerCertificate bool `yaml:"servercertificate,omitempty"`
}

// finishAccess reads who may pull what, after remotes and TLS were read. What the files
// hold is not checked here, since they are read again when they change.
func (l *loader) finishAccess(doc *document, c *Config) {
	c.AccessPolicy, c.AccessCRLs = doc.Access.Policy, doc.Access.CRLs
	c.ServerCertificate = doc.IoTEdge.ServerCertificate
	if c.AccessPolicy != "" {
		l.readable("access.policy", c.AccessPolicy)
	}
	for _, path := range c.AccessCRLs {
		l.readable("access.crls", path)
	}
	tls := doc.HTTP.TLS
	if len(c.AccessCRLs) > 0 && len(tls.ClientCAs) == 0 {
		l.bad("access.crls", c.AccessCRLs[0], "is about client certificates, and none are asked for: write the certificates of their authorities as http.tls.clientcas")
	}
	if c.ServerCertificate {
		if tls.Certificate != "" {
			l.bad("iotedge.servercertificate", "true", "gives a certificate, and so does http.tls.certificate: keep only one")
		}
		l.onDevice("iotedge.servercertificate")
	} else if tls.Certificate == "" && len(tls.ClientCAs) > 0 {
		l.bad("http.tls.clientcas", tls.ClientCAs[0], "is for clients that speak TLS, and there is no TLS without http.tls.certificate: write that and http.tls.key")
	}
	l.finishPassThrough(c)
}

// finishPassThrough makes sure that a name means one remote where its callers are asked
// about there.
func (l *loader) finishPassThrough(c *Config) {
	for _, r := range c.Remotes {
		if !r.PassThrough || !r.Default {
			continue
		}
		for _, other := range c.Remotes {
			if other.Default && other.Number != r.Number {
				l.bad(join(remoteKey(r.Number), "passthrough"), "true",
					"needs names that mean one remote, and %s is a default as well: set %s to false for one of them, which is then asked for by its host or alias",
					other.URL.Host, l.variable("proxy.default"))
				break
			}
		}
	}
}

// passThrough reads whether callers' own credentials are checked at the remote.
func (r remoteReader) passThrough(remote *Remote) {
	l, s := r.loader, r.section
	remote.PassThrough = s.PassThrough
	remote.PassThroughTTL = l.duration(r.at("passthroughttl"), s.PassThroughTTL, DefaultPassThroughTTL)
	remote.PassThroughGrace = l.duration(r.at("passthroughgrace"), s.PassThroughGrace, DefaultPassThroughGrace)
	if s.PassThroughTTL != "" && remote.PassThroughTTL == 0 {
		r.bad("passthroughttl", s.PassThroughTTL, "is no time at all: write for example %v", DefaultPassThroughTTL)
	}
}

// upstreamHost stands for the device above in the URL of a remote, as it does in a
// deployment manifest.
const upstreamHost = "$upstream"

// Variables that the IoT Edge runtime gives to its modules.
const (
	parentVariable   = "IOTEDGE_PARENTHOSTNAME"
	workloadVariable = "IOTEDGE_WORKLOADURI"
)

// above puts the name of the device above into the URL of a remote that has [upstreamHost]
// for its host. It returns false where there is none.
func (r remoteReader) above(url string) (string, bool) {
	scheme, rest, hasScheme := strings.Cut(url, "://")
	if !hasScheme {
		scheme, rest = "https", url
	}
	rest, ours := strings.CutPrefix(rest, upstreamHost)
	if !ours || rest != "" && rest[0] != ':' && rest[0] != '/' {
		return url, true
	}
	parent := r.loader.environment[parentVariable]
	if parent == "" {
		r.bad("remoteurl", url, "means the device above this one, which IoT Edge has to name (%s is not set): on the top layer, "+
			"or outside of IoT Edge, write the host of a registry", parentVariable)
		return "", false
	}
	return scheme + "://" + parent + rest, true
}

// trustBundle reads whether the remote may show a certificate of the device's own
// authorities.
func (r remoteReader) trustBundle() bool {
	s := r.section
	if s.TrustBundle == nil {
		return strings.Contains(s.RemoteURL, upstreamHost) && r.loader.environment[workloadVariable] != ""
	}
	if *s.TrustBundle {
		r.loader.onDevice(r.at("trustbundle"))
	}
	return *s.TrustBundle
}

// onDevice records a problem where what key asks for cannot be had outside of IoT Edge.
func (l *loader) onDevice(key string) {
	if l.environment[workloadVariable] == "" {
		l.bad(key, "true", "works in an IoT Edge module only, where %s is set: remove it, and name files instead", workloadVariable)
	}
}
