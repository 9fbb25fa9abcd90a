// Package config reads the configuration of registry-module: a config.yml as
// registry:3 takes it, overlaid with REGISTRY_* environment variables.
//
// It promises that what the stock image accepts means the same here, that a
// [Config] is complete and valid, so that its user has nothing left to check,
// and that everything that is wrong is reported at once, each problem with the
// variable, the key in config.yml and what to write instead. Passwords and
// other secrets are in no message.
//
// The sections have the types of distribution's package configuration. Its
// parser is not used: it stops at the first value that it cannot read, takes
// its variables from the process only, and warns through a global logger. The
// decoder here walks the same types in the same way, value by value, and a test
// compares the two.
//
// Only package main imports this package; the others declare options of their
// own, which main fills in. Of this module it imports upstream, which knows what
// the URL of a registry means, cache/tagpolicy, which reads rules for tags,
// internal/pattern, which knows patterns for names, and internal/schedule, which reads
// times of the week.
package config

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/distribution/distribution/v3/configuration"

	"registry-module/cache/tagpolicy"
	"registry-module/internal/schedule"
)

// Defaults of settings, where neither file nor environment say anything.
const (
	// DefaultDataDir is where the stock image keeps its data, too.
	DefaultDataDir = "/var/lib/registry"
	// DefaultAddr is the address at which lower layers expect the registry
	// module.
	DefaultAddr = ":8000"
	// DefaultAdminAddr is the address for health, metrics and the dashboard.
	DefaultAdminAddr = ":5001"
	// DefaultTagTTL is how long a tag is answered without asking the remote.
	DefaultTagTTL = 5 * time.Minute
	// DefaultStaleWhileRevalidate is for how long after that a tag is answered at
	// once while the remote is asked: a minute, so that a client hardly ever waits
	// for a thin link and what it gets is hardly older.
	DefaultStaleWhileRevalidate = time.Minute
	// DefaultNegativeTTL is how long the remote is not asked again for what it does
	// not have: long enough for those who ask in a loop, and short for who waits
	// for an image that is just being pushed.
	DefaultNegativeTTL = 30 * time.Second
	// DefaultMinFree is the share of the file system that is left free, for
	// what else lives there: on a gateway that is the container engine.
	DefaultMinFree = "5%"
	// DefaultConnections is how many connections fetch one large blob. A few fill
	// a link of long delay or with losses that one does not fill.
	DefaultConnections = 4
	// DefaultMaxConnections is how many connections fetch blobs.
	DefaultMaxConnections = 16
	// DefaultStallTimeout is how long a connection may bring nothing. Links by
	// satellite are silent for some seconds, and a lost one is noticed by nobody
	// else.
	DefaultStallTimeout = 30 * time.Second
	// DefaultRetryFor is how long a client waits for a link that is gone: most of
	// them do so for longer.
	DefaultRetryFor = 5 * time.Minute
	// DefaultBindingTTL is how long a repository stays bound to the remote that it
	// was found at: a month, so that a name that nobody uses any more gets free.
	DefaultBindingTTL = 720 * time.Hour
	// DefaultPartialTTL is how long an unfinished download is kept: a week, as the
	// stock registry does with uploads.
	DefaultPartialTTL = 168 * time.Hour
	// DefaultScrubInterval is how long all that is stored was read and compared
	// before that is done again: a week, so that what rots is found while its remote
	// most likely still has it, and flash is hardly read for nothing.
	DefaultScrubInterval = 168 * time.Hour
	// DefaultScrubRate is how much of it is read in a second: a small part of what
	// the slowest cards and disks give, with which 8 GiB take 17 minutes.
	DefaultScrubRate = 8 << 20
)

// minMaxSize is the least limit of size in bytes: the index alone takes up to some 40
// MB, and nothing would be left for images.
const minMaxSize = 64 << 20

// maxFileSize is the size in bytes up to which a configuration is read:
// arbitrary, far more than anyone writes, and bounded.
const maxFileSize = 1 << 20

// pathVariable names the configuration file where the command line does not.
const pathVariable = "REGISTRY_CONFIGURATION_PATH"

// Config is a valid configuration.
type Config struct {
	// Source is the path of the file that was read, or empty where there was
	// none.
	Source string

	// Stock has the sections of the stock configuration, for the embedded
	// distribution app. Its Proxy section is empty, because the app must not
	// start a pull-through cache of its own, and its Redis section too: they
	// are served by this program or not at all.
	Stock *configuration.Configuration

	// DataDir is the directory that holds everything which is kept.
	DataDir string

	// Net is the network to listen on, "tcp" or "unix", and Addr the address
	// in it.
	Net, Addr string

	// AdminAddr is the TCP address for health, metrics and the dashboard.
	AdminAddr string

	// Remotes are the remote registries, in the order of their numbers. No two
	// have the same host, alias or namespace. Without one, the program serves
	// what its data directory holds.
	Remotes []Remote

	// Offline tells never to contact a remote, and OfflineSchedule when not to, where
	// Offline does not. The operator can override both while the program runs.
	Offline         bool
	OfflineSchedule schedule.Windows

	// BindingTTL is how long a repository that was found at one of several
	// default remotes is looked for there and nowhere else; 0 is for ever.
	BindingTTL time.Duration

	// MaxSize is how many bytes all that is below the data directory takes at most, in
	// blocks of its file system: content, unfinished downloads, the index, and what was
	// found to be damaged. 0 is no limit.
	MaxSize int64

	// MinFree is how much of the data directory's file system is left free, whoever
	// else writes to it.
	MinFree Amount

	// Pins are patterns for images that are never removed to make room, as they were
	// written, see [CheckPin].
	Pins []string

	// ScrubInterval is how long after it was last done all stored content is read and
	// compared with its digests again; 0 is never.
	ScrubInterval time.Duration

	// ScrubRate is how many bytes are read for that in a second; 0 is no limit.
	ScrubRate int64

	// Bandwidth is how many bytes a second come from all remotes together at
	// most; 0 is no limit.
	Bandwidth int64

	// Prefetch tells to fetch what an image manifest names when it is pulled.
	Prefetch bool

	// Referrers tells to fetch what is attached to an image when it is pulled:
	// signatures, attestations, SBOMs.
	Referrers bool

	// Resume tells to go on with unfinished downloads at start, and not only when
	// they are asked for.
	Resume bool

	// PartialTTL is how long an unfinished download is kept that nobody goes on
	// with; 0 keeps none after a restart.
	PartialTTL time.Duration

	// SeedFile says what the running server fetches ahead of time, and when, see package
	// seed/source. It is empty where there is none. What it says is not checked here,
	// since it is read again for each run.
	SeedFile string

	// SeedTokenFile holds the token of those who may have the server fetch images by its
	// admin address, see [ReadToken]. Where it is empty, nobody may.
	SeedTokenFile string

	// AdminTokenFile holds the token of those who may change what is stored and how the
	// program works by its admin address, see [ReadToken]. Where it is empty, nobody may.
	AdminTokenFile string

	// PProf tells to give profiles of the program at the admin address.
	PProf bool

	// SampleRequests is the part of the requests that have a line in the log, from 0 to 1.
	// Those that fail have one in any case, unless log.accesslog.disabled says otherwise. By
	// default it is 0, since each pull has a line of its own, and a line for each manifest
	// would cost almost as much as the manifest, and wear flash.
	SampleRequests float64

	// BundleTrustKeys are files with public keys. Where there are any, only bundles are
	// loaded that are signed with one of them.
	BundleTrustKeys []string

	// AccessPolicy is a file that says who may pull what, see package auth/policy. Where it
	// is empty, who is let in may pull all.
	AccessPolicy string

	// AccessCRLs are files with lists of client certificates that were revoked.
	AccessCRLs []string

	// ServerCertificate tells that the certificate which clients are shown comes from
	// the IoT Edge workload API.
	ServerCertificate bool

	// Warnings are what is worth a line in the log but not an error, for
	// example a variable that nothing reads.
	Warnings []string

	// Files are those whose contents are a part of the configuration, Source among them,
	// by their paths, with the SHA-256 of what was read. What other files hold is for those
	// who use them to read, and to read again.
	Files map[string]string

	// doc is what was written, for Changed.
	doc *document
}

// Remote is a registry that content is fetched from.
type Remote struct {
	// URL has a scheme (http or https), a host, perhaps a port, and nothing
	// else.
	URL *url.URL

	// Number is that in the names of its variables: 1 for the remote of
	// REGISTRY_PROXY_REMOTEURL, 2 for that of REGISTRY_PROXY_REMOTEURL_2.
	Number int

	// Credentials are for the remote and its token service.
	Credentials Credentials

	// Alias is a path component that names the remote beside its host, or
	// empty.
	Alias string

	// Default tells that the remote is asked for names that say nothing of a
	// remote, in the order of Config.Remotes.
	Default bool

	// Namespaces are other registries that the remote serves under their hosts,
	// as another registry-module does: what clients ask for in the namespace
	// quay.io is its repository quay.io/<name>. They are hosts, with or without
	// port.
	Namespaces []string

	// Allow and Deny are patterns for names of the remote's repositories. Only
	// those that match one of Allow are served, all where it is empty, and never
	// those that match one of Deny.
	Allow, Deny []string

	// DeniedIsAbsent tells that the remote answers 401 or 403 for repositories
	// that do not exist, so that the next default remote may be asked.
	DeniedIsAbsent bool

	// TagTTL is how long a tag is answered without asking the remote, where none
	// of TagRules says something else; 0 asks each time. No rule hides another one.
	TagTTL   time.Duration
	TagRules tagpolicy.Rules

	// StaleWhileRevalidate is for how long after that a tag is still answered at
	// once, while the remote is asked; 0 is not at all.
	StaleWhileRevalidate time.Duration

	// MaxStale is how old the last confirmation of a tag may be that is answered
	// while the remote cannot be asked: there is no limit where it is nil, and 0 is
	// not at all.
	MaxStale *time.Duration

	// NegativeTTL is how long the remote is not asked again about what it has said
	// does not exist; 0 is not at all.
	NegativeTTL time.Duration

	// TTL is how long content is kept that nobody asks for; 0 is for ever. What is
	// older is removed when the remote can be reached.
	TTL time.Duration

	// CAFile holds the PEM certificates that are trusted for this remote
	// beside the system's, or is empty.
	CAFile string

	// CertFile and KeyFile are the PEM client certificate for this remote and
	// its key. Both are set or both are empty.
	CertFile, KeyFile string

	// Insecure tells not to verify the remote's certificate.
	Insecure bool

	// TrustBundle tells to trust the authorities of the IoT Edge device as well.
	TrustBundle bool

	// PassThrough tells to serve only to those whom the remote itself would let pull, by
	// the credentials that they send. Its verdict holds for PassThroughTTL, and for
	// PassThroughGrace while it cannot be asked; 0 is not at all.
	PassThrough                      bool
	PassThroughTTL, PassThroughGrace time.Duration

	// HTTPProxy is the proxy that requests go through; nil is what the
	// environment says (HTTPS_PROXY and the like). It may have a password.
	HTTPProxy *url.URL
	// NoHTTPProxy tells to use none, whatever the environment says.
	NoHTTPProxy bool

	// AllowedRealms are the hosts of token services that may be sent the
	// credentials beside those that the remote's own name implies.
	AllowedRealms []string

	// Connections is how many connections fetch one large blob, from 1 to
	// MaxConnections.
	Connections int

	// MaxConnections is how many connections fetch blobs.
	MaxConnections int

	// Bandwidth is how many bytes a second come from this remote at most; 0 is no
	// limit.
	Bandwidth int64

	// StallTimeout is how long a connection may bring no byte before it is given
	// up. It is above 0.
	StallTimeout time.Duration

	// RetryFor is for how long without a byte a download that has begun is tried
	// again while clients wait; 0 is not at all.
	RetryFor time.Duration
}

// Load reads the configuration file at path and the environment. An empty path
// stands for the file that REGISTRY_CONFIGURATION_PATH names, else for a file
// mounted to where the stock images look for theirs, else for built-in
// defaults. All that is wrong comes as one [*Errors].
func Load(path string) (*Config, error) {
	return processSource().load(path)
}

// Reload is Load for who has done that before, with the same path, and looks for what has
// changed. A configuration that comes by a pipe cannot be read again, which is a problem as
// others are.
func Reload(path string) (*Config, error) {
	s := processSource()
	s.again = true
	return s.load(path)
}

func processSource() source {
	return source{
		environ: os.Environ(),
		// Those of registry:3 and registry:2. This program's own image has
		// neither, so that what is found was put there for it.
		stockPaths: []string{"/etc/distribution/config.yml", "/etc/docker/registry/config.yml"},
	}
}

// source is where a configuration comes from.
type source struct {
	// environ is the environment in the form of [os.Environ].
	environ []string
	// stockPaths are the files that are read where none is named, the first
	// of them that exists.
	stockPaths []string
	// again tells that it was read before, and must not hold up who reads it.
	again bool
}

func (s source) load(path string) (*Config, error) {
	named := path != ""
	if !named {
		path, named = s.pathFromEnvironment()
	}
	if !named {
		path = s.firstStockPath()
	}
	l := newLoader(path)
	for _, entry := range s.environ {
		if name, value, _ := strings.Cut(entry, "="); name == parentVariable || name == workloadVariable {
			l.environment[name] = value
		}
	}
	var doc *document
	if path == "" {
		doc = builtin()
	} else if text, err := s.read(path); err != nil {
		l.looked = append(l.looked, path)
		l.problem(Problem{Text: fmt.Sprintf("%v: name the file as argument of the command or in %s", err, pathVariable)})
		doc = builtin()
	} else {
		l.partOf(path, text)
		doc = l.decodeFile(text)
	}
	l.decodeEnvironment(doc, s.environ)
	return l.finish(doc)
}

func (s source) read(path string) ([]byte, error) {
	if s.again {
		return readRegularFile(path)
	}
	return readFile(path)
}

func (s source) pathFromEnvironment() (path string, found bool) {
	for _, entry := range s.environ {
		if name, value, _ := strings.Cut(entry, "="); name == pathVariable && value != "" {
			return value, true
		}
	}
	return "", false
}

func (s source) firstStockPath() string {
	for _, path := range s.stockPaths {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// readFile returns the content of a configuration file, which may be a pipe, as for
// the stock registry.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, reason(err))
	}
	defer f.Close()
	return readAll(f, path)
}

// readRegularFile is readFile for what is read again while the program runs, and may
// so be no pipe: one that somebody holds open would hold us up.
func readRegularFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, reason(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		err = errNotRegular
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, reason(err))
	}
	return readAll(f, path)
}

var errNotRegular = errors.New("not a regular file, but a pipe or a device")

func readAll(f *os.File, path string) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, reason(err))
	}
	if len(text) > maxFileSize {
		return nil, fmt.Errorf("cannot read %s: it is larger than 1 MiB", path)
	}
	return text, nil
}

// reason strips the operation and the path from an error of the file system,
// for messages that name the path already.
func reason(err error) error {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err
	}
	return err
}
