// Package via carries through a context which registries a request has passed, so
// that a loop of registries that fetch from each other is noticed.
//
// Each registry that fetches something on behalf of a request names itself in the
// Via header of its own request, behind those that the request came through (RFC
// 9110, section 7.6.3). One that finds its own name there is part of a loop.
//
// It promises that a chain from outside is bounded and harmless in logs and
// headers. It imports nothing of this module.
package via

import (
	"context"
	"crypto/rand"
	"net/http"
	"slices"
	"strings"
)

// Header is the name of the header.
const Header = "Via"

// MaxHops is how many registries a request can have passed. Nobody builds more
// layers; a chain that is longer is a loop through something that alters names.
const MaxHops = 64

// prefix is what our names begin with.
const prefix = "registry-module-"

// NewName returns a name that no other process has. It tells nothing of the machine.
func NewName() string { return prefix + strings.ToLower(rand.Text()[:8]) }

// other stands for a name that is not ours.
const other = "proxy"

// Ours returns a chain in which only names that NewName has made are told. Others can
// be those of hosts, which are nobody's business above (RFC 9110, section 7.6.3).
func Ours(chain []string) []string {
	ours := slices.Clone(chain)
	for i, name := range ours {
		if !strings.HasPrefix(name, prefix) {
			ours[i] = other
		}
	}
	return ours
}

// Named tells whether the Via header of an answer has a name that NewName has made.
func Named(h http.Header) bool {
	return slices.ContainsFunc(Parse(h), func(name string) bool { return strings.HasPrefix(name, prefix) })
}

type chainKey struct{}

// With returns ctx with the chain of a request: the names of those that it has
// passed, the first one first.
func With(ctx context.Context, chain []string) context.Context {
	if len(chain) == 0 {
		return ctx
	}
	return context.WithValue(ctx, chainKey{}, slices.Clip(chain))
}

// From returns the chain of ctx. It must not be modified.
func From(ctx context.Context) []string {
	chain, _ := ctx.Value(chainKey{}).([]string)
	return chain
}

// Carry returns to with the chain of from: for work that is done on behalf of a
// request and outlives it.
func Carry(to, from context.Context) context.Context { return With(to, From(from)) }

// Parse returns the names in the Via header of a request: what a proxy calls
// itself, without protocol and comment. What has no name is left out. Of a chain
// that is longer than MaxHops one more is returned.
func Parse(h http.Header) []string {
	var chain []string
	for _, line := range h.Values(Header) {
		for entry := range strings.SplitSeq(line, ",") {
			fields := strings.Fields(entry)
			if len(fields) < 2 || !isName(fields[1]) {
				continue
			}
			if chain = append(chain, fields[1]); len(chain) > MaxHops {
				return chain
			}
		}
	}
	return chain
}

// Value is the header of a request that has passed chain, the last of which is who
// sends it.
func Value(chain []string) string {
	entries := make([]string, len(chain))
	for i, name := range chain {
		entries[i] = "1.1 " + name
	}
	return strings.Join(entries, ", ")
}

// maxName is how long a name can be in bytes.
const maxName = 100

// isName tells whether s is a pseudonym, or a host with or without port.
func isName(s string) bool {
	return s != "" && len(s) <= maxName && !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune(".-_:[]", c)
	})
}
