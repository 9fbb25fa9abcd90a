package config

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// minSeedToken is how many characters a token has at least that lets others use the
// link and fill the disk: 16 random ones are not found by trying.
const minSeedToken = 16

// finishSeed reads what is fetched ahead of time, and whose bundles are loaded.
func (l *loader) finishSeed(doc *document, c *Config) {
	c.SeedFile, c.SeedTokenFile, c.BundleTrustKeys = doc.Seed.File, doc.Seed.TokenFile, doc.Bundle.TrustKeys
	if c.SeedFile != "" {
		l.exists("seed.file", c.SeedFile)
	}
	if c.SeedTokenFile != "" {
		const key = "seed.tokenfile"
		if text, ok := l.readable(key, c.SeedTokenFile); ok {
			if _, err := seedToken(text); err != nil {
				l.bad(key, c.SeedTokenFile, "%v", err)
			}
		}
	}
	for _, path := range c.BundleTrustKeys {
		l.readable("bundle.trustkeys", path)
	}
}

// exists records a problem where the file that is the value of key cannot be opened. How
// large it may be is for those to say who read it.
func (l *loader) exists(key, path string) {
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

// ReadSeedToken returns the token in the file that Config.SeedTokenFile names, which can
// have changed meanwhile. Errors do not have it.
func ReadSeedToken(path string) (string, error) {
	text, err := readRegularFile(path)
	if err != nil {
		return "", err
	}
	token, err := seedToken(text)
	if err != nil {
		return "", fmt.Errorf("%s %w", path, err)
	}
	return token, nil
}

// seedToken is the token that a file holds. An error continues a sentence that begins with
// the path.
func seedToken(text []byte) (string, error) {
	token := strings.TrimSpace(string(text))
	switch {
	case token == "":
		return "", errors.New("holds no token: write one to it, for example by openssl rand -hex 32")
	case len(token) < minSeedToken:
		return "", fmt.Errorf("holds a token of less than %d characters, which others can find out: write one to it, for example by openssl rand -hex 32", minSeedToken)
	case strings.IndexFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) >= 0:
		return "", errors.New("holds more than a token: write one word without spaces to it, for example by openssl rand -hex 32")
	}
	return token, nil
}
