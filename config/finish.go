package config

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/configuration"
)

// Defaults of the stock registry.
const (
	defaultMaxEntries = 1000
	defaultMaxTags    = 1000
)

// finish checks doc and makes a Config of it. Checks go on after a problem, so
// that all are found.
func (l *loader) finish(doc *document) (*Config, error) {
	c := &Config{Source: l.source}
	l.finishLog(doc, c)
	l.finishStorage(doc, c)
	l.finishHTTP(doc, c)
	l.finishAuth(doc)
	l.finishNotifications(doc)
	l.finishValidation(doc)
	l.finishLists(doc)
	l.finishProxy(doc, c)
	l.finishAccess(doc, c)
	l.finishCache(doc, c)
	l.finishSeed(doc, c)
	l.finishAdmin(doc, c)
	l.rejectUnsupported(doc)
	if err := l.failed(); err != nil {
		err.DataDir = c.DataDir
		return nil, err
	}
	c.Stock = &configuration.Configuration{
		Version:       doc.Version,
		Log:           doc.Log.stock(),
		Storage:       configuration.Storage(doc.Storage),
		Auth:          configuration.Auth(doc.Auth),
		HTTP:          doc.HTTP,
		Notifications: doc.Notifications,
		Health:        doc.Health,
		Catalog:       doc.Catalog,
		Tags:          doc.Tags,
		Validation:    doc.Validation,
		Policy:        doc.Policy,
	}
	c.Warnings, c.Files, c.doc = l.warnings, l.files, doc
	return c, nil
}

func (l *loader) finishNotifications(doc *document) {
	for i, e := range doc.Notifications.Endpoints {
		key := "notifications.endpoints." + strconv.Itoa(i)
		if e.Disabled {
			continue
		}
		if e.Name == "" {
			l.bad(key+".name", "", "is missing: give each endpoint a name of its own")
		}
		if u, err := parseHTTPURL(e.URL); err != nil || u.Host == "" {
			l.bad(key+".url", e.URL, "is not a URL to notify: write for example https://example.com/events")
		}
		l.notNegative(key+".timeout", e.Timeout)
		l.notNegative(key+".backoff", e.Backoff)
	}
}

func (l *loader) finishValidation(doc *document) {
	urls := doc.Validation.Manifests.URLs
	for name, patterns := range map[string][]string{"allow": urls.Allow, "deny": urls.Deny} {
		for _, pattern := range patterns {
			if _, err := regexp.Compile(pattern); err != nil {
				l.bad("validation.manifests.urls."+name, pattern, "is not a regular expression: %v", err)
			}
		}
	}
}

func (l *loader) finishLists(doc *document) {
	if doc.Catalog.MaxEntries <= 0 {
		doc.Catalog.MaxEntries = defaultMaxEntries
	}
	if doc.Tags.MaxTags < 0 {
		l.bad("tags.maxtags", strconv.Itoa(doc.Tags.MaxTags), "is negative: write for example %d", defaultMaxTags)
	}
	if doc.Tags.MaxTags == 0 {
		doc.Tags.MaxTags = defaultMaxTags
	}
}

func (l *loader) finishCache(doc *document, c *Config) {
	if text := doc.Cache.MaxSize; text != "" {
		var err error
		c.MaxSize, err = ParseSize(text)
		_, bareErr := strconv.ParseInt(text, 10, 64)
		switch {
		case err != nil:
			l.bad("cache.maxsize", text, "%v", err)
		case bareErr == nil && c.MaxSize > 0 && c.MaxSize < 1<<20:
			// Nobody wants a cache of 20 bytes.
			l.bad("cache.maxsize", text, "is a size in bytes, without unit: write for example %sGiB", text)
		case c.MaxSize > 0 && c.MaxSize < minMaxSize:
			l.bad("cache.maxsize", text, "is too little: it is for all below the data directory, and the index alone can take 40 MB; write at least %dMiB, or 0 for no limit", minMaxSize>>20)
		}
	}
	text := doc.Cache.MinFree
	if text == "" {
		text = DefaultMinFree
	}
	var err error
	if c.MinFree, err = ParseAmount(text); err != nil {
		l.bad("cache.minfree", text, "%v", err)
	}
	c.Bandwidth = l.bandwidth("cache.bandwidth", doc.Cache.Bandwidth)
	c.Prefetch, c.Referrers, c.Resume = doc.Cache.Prefetch, doc.Cache.Referrers, doc.Cache.Resume
	c.PartialTTL = l.duration("cache.partialttl", doc.Cache.PartialTTL, DefaultPartialTTL)
	c.BindingTTL = l.duration("cache.bindingttl", doc.Cache.BindingTTL, DefaultBindingTTL)
	c.Pins = l.pins(doc.Cache.Pins)
	l.finishScrub(doc, c)
}

// finishScrub reads how often and how fast what is stored is compared with its
// digests.
func (l *loader) finishScrub(doc *document, c *Config) {
	const interval, rate = "cache.scrubinterval", "cache.scrubrate"
	c.ScrubInterval = l.duration(interval, doc.Cache.ScrubInterval, DefaultScrubInterval)
	c.ScrubRate = DefaultScrubRate
	if doc.Cache.ScrubRate == "" {
		return
	}
	c.ScrubRate = l.bandwidth(rate, doc.Cache.ScrubRate)
	if c.ScrubInterval == 0 && doc.Cache.ScrubInterval != "" {
		l.warn("%s (%s) has no effect: by %s (%s) what is stored is never read for that",
			l.variable(rate), rate, l.variable(interval), interval)
	}
}

// rejectUnsupported names what the stock registry has and this program does
// not. What would be missed is an error, what would not is a warning.
func (l *loader) rejectUnsupported(doc *document) {
	for name, entries := range doc.Middleware {
		for _, m := range entries {
			if !m.Disabled {
				l.bad("middleware."+name, m.Name, "is a middleware, and none is supported: remove it, or set its disabled to true")
			}
		}
	}
	if doc.Proxy.CacheWriteTimeout != "" {
		l.duration("proxy.cachewritetimeout", doc.Proxy.CacheWriteTimeout, 0)
		l.warn("proxy.cachewritetimeout is not used: writing to the cache is not bound to a request")
	}
	if len(doc.Redis.Options.Addrs) > 0 {
		l.warn("redis is not used: what is kept is indexed in the data directory")
	}
	l.warnWithoutEffect(doc)
}

// warnWithoutEffect names settings of the stock registry that do nothing here,
// where they are meant to do something.
func (l *loader) warnWithoutEffect(doc *document) {
	if doc.HTTP.H2C.Enabled {
		l.warn("http.h2c has no effect: HTTP/1.1 is spoken")
	}
	h := doc.Health
	var checks []string
	for _, check := range []struct {
		key string
		set bool
	}{
		{"file", len(h.FileCheckers) > 0},
		{"http", len(h.HTTPCheckers) > 0},
		{"tcp", len(h.TCPCheckers) > 0},
		{"storagedriver", h.StorageDriver.Enabled},
	} {
		if check.set {
			checks = append(checks, check.key)
		}
	}
	if len(checks) > 0 {
		l.warn("health (%s) has no effect: /healthz on the address of http.debug.addr tells that the program runs, and what is known of the remotes",
			strings.Join(checks, ", "))
	}
	if slices.ContainsFunc(doc.Log.Hooks, func(h configuration.LogHook) bool { return !h.Disabled }) {
		l.warn("log.hooks has no effect: nothing is mailed")
	}
	if readonly, ok := doc.Storage["maintenance"]["readonly"].(map[any]any); ok && readonly["enabled"] == true {
		l.warn("storage.maintenance.readonly has no effect: clients can never change anything, and what they pull is stored")
	}
}

// duration reads a duration that is not negative, as the value of key. Where
// text is empty it is what otherwise says.
func (l *loader) duration(key, text string, otherwise time.Duration) time.Duration {
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if err == nil && d >= 0 {
		return d
	}
	hint := "write for example 30s, 5m or 168h"
	if _, numberErr := strconv.ParseFloat(text, 64); numberErr == nil && err != nil {
		hint = fmt.Sprintf("it has no unit: write for example %ss or %sm", text, text)
	}
	if err == nil {
		l.bad(key, text, "is negative: %s", hint)
	} else {
		l.bad(key, text, "is not a duration: %s", hint)
	}
	return otherwise
}

// count reads a whole number from 1 to most, as the value of key. Where text is
// empty it is what otherwise says.
func (l *loader) count(key, text string, most, otherwise int) int {
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		l.bad(key, text, "is not a whole number from 1 to %d: write for example %d", most, otherwise)
		return otherwise
	}
	return n
}

// bandwidth reads a number of bytes a second, as the value of key. Where text is
// empty there is no limit, which is 0.
func (l *loader) bandwidth(key, text string) int64 {
	if text == "" {
		return 0
	}
	n, err := ParseBandwidth(text)
	if err != nil {
		l.bad(key, text, "%v", err)
	}
	return n
}

func (l *loader) notNegative(key string, d time.Duration) {
	if d < 0 {
		l.bad(key, d.String(), "is negative: write for example 30s")
	}
}
