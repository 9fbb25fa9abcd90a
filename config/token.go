package config

import (
	"errors"
	"fmt"
	"strings"
)

// minToken is how many characters a token has at least that lets others change what is
// stored, use the link and fill the disk: 16 random ones are not found by trying.
const minToken = 16

// token records a problem where the file that is the value of key holds no token. Without
// a path there is none to look at.
func (l *loader) token(key, path string) {
	if path == "" {
		return
	}
	if text, ok := l.readable(key, path); ok {
		if _, err := tokenIn(text); err != nil {
			l.bad(key, path, "%v", err)
		}
	}
}

// ReadToken returns the token in a file that Config.SeedTokenFile or AdminTokenFile names,
// which can have changed meanwhile. Errors do not have it.
func ReadToken(path string) (string, error) {
	text, err := readRegularFile(path)
	if err != nil {
		return "", err
	}
	token, err := tokenIn(text)
	if err != nil {
		return "", fmt.Errorf("%s %w", path, err)
	}
	return token, nil
}

// tokenIn is the token that a file holds. An error continues a sentence that begins with
// the path.
func tokenIn(text []byte) (string, error) {
	token := strings.TrimSpace(string(text))
	switch {
	case token == "":
		return "", errors.New("holds no token: write one to it, for example by openssl rand -hex 32")
	case len(token) < minToken:
		return "", fmt.Errorf("holds a token of less than %d characters, which others can find out: write one to it, for example by openssl rand -hex 32", minToken)
	case strings.IndexFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) >= 0:
		return "", errors.New("holds more than a token: write one word without spaces to it, for example by openssl rand -hex 32")
	}
	return token, nil
}
