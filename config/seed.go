package config

import (
	"os"
	"syscall"
)

// finishSeed reads what is fetched ahead of time, and whose bundles are loaded.
func (l *loader) finishSeed(doc *document, c *Config) {
	c.SeedFile, c.SeedTokenFile, c.BundleTrustKeys = doc.Seed.File, doc.Seed.TokenFile, doc.Bundle.TrustKeys
	if c.SeedFile != "" {
		l.exists("seed.file", c.SeedFile)
	}
	l.token("seed.tokenfile", c.SeedTokenFile)
	for _, path := range c.BundleTrustKeys {
		l.readable("bundle.trustkeys", path)
	}
}

// exists records a problem where the file that is the value of key cannot be opened. How
// large it may be is for those to say who read it.
func (l *loader) exists(key, path string) {
	l.looked = append(l.looked, path)
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err == nil {
		info, statErr := f.Stat()
		if err = statErr; err == nil && !info.Mode().IsRegular() {
			err = errNotRegular
			if info.IsDir() {
				err = syscall.EISDIR
			}
		}
		_ = f.Close() // nothing was read
	}
	if err != nil {
		l.bad(key, path, "%s", unreadable(err))
	}
}
