package config

import (
	"maps"
	"slices"
	"strings"
)

// finishAuth checks the access controller's section as the stock access
// controllers do when they start, but all of it at once.
func (l *loader) finishAuth(doc *document) {
	names := slices.Sorted(maps.Keys(doc.Auth))
	if len(names) > 1 {
		l.bad("auth", strings.Join(names, " "), "is more than one kind of access control: keep only one")
	}
	for _, name := range names {
		s := section{l, "auth." + name, doc.Auth[name]}
		switch name {
		case "none":
		case "htpasswd":
			s.known("realm", "path")
			s.required("realm", `write a name that clients show, for example "registry"`)
			// The file is made by the access controller where it is missing.
			s.required("path", "write the path of the file with users and bcrypt hashes")
		case "token":
			l.finishTokenAuth(s)
		default:
			l.bad(s.key, "", "is not a kind of access control that is supported: write htpasswd, token or none%s",
				didYouMean(name, []string{"htpasswd", "token", "none"}))
		}
	}
}

func (l *loader) finishTokenAuth(s section) {
	s.known("realm", "issuer", "service", "rootcertbundle", "jwks",
		"autoredirect", "autoredirectpath", "signingalgorithms")
	s.required("realm", "write the URL of the token service")
	s.required("issuer", "write the issuer that the token service puts into tokens")
	s.required("service", "write the name that the token service knows this registry by")
	bundle := check[string](s, "rootcertbundle")
	keys := check[string](s, "jwks")
	if s.values["rootcertbundle"] == nil && s.values["jwks"] == nil {
		s.bad("rootcertbundle", "", "is missing: write the path of the certificates that tokens are signed with, or of their keys as auth.token.jwks")
	}
	// The app reads these once.
	if bundle {
		path := s.values["rootcertbundle"].(string)
		l.certificates(join(s.key, "rootcertbundle"), path)
		l.readPart(path)
	}
	if keys {
		path := s.values["jwks"].(string)
		l.readable(join(s.key, "jwks"), path)
		l.readPart(path)
	}
	check[bool](s, "autoredirect")
	check[string](s, "autoredirectpath")
	if algorithms, ok := s.values["signingalgorithms"]; ok {
		names, isList := algorithms.([]any)
		if !isList || slices.ContainsFunc(names, func(v any) bool { _, isText := v.(string); return !isText }) {
			s.bad("signingalgorithms", algorithms, "is not a list of signing algorithms: write for example [RS256, ES256]")
		}
	}
}

// required records a problem where there is no text with that name.
func (s section) required(name, instead string) {
	switch value := s.values[name]; value {
	case nil, "":
		s.bad(name, "", "is missing: %s", instead)
	default:
		check[string](s, name)
	}
}

// readPart takes note of what a file holds that is checked elsewhere.
func (l *loader) readPart(path string) {
	if text, err := readRegularFile(path); err == nil {
		l.partOf(path, text)
	}
}
