package server

import (
	"fmt"
	"net/http"
	pathpkg "path"
	"strings"

	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/opencontainers/go-digest"
)

// routeKind says what a path is about.
type routeKind int

const (
	otherRoute routeKind = iota // left to the app
	baseRoute                   // whether this is a registry
	catalogRoute
	manifestRoute
	blobRoute
	tagsRoute
	referrersRoute
	uploadsRoute // where uploads of blobs begin
	uploadRoute  // where one goes on
)

// content is what of a repository is wanted, see [Asked.Content].
func (k routeKind) content() string {
	switch k {
	case manifestRoute:
		return ManifestContent
	case blobRoute:
		return BlobContent
	case tagsRoute:
		return TagsContent
	case referrersRoute:
		return ReferrersContent
	}
	return ""
}

// stock is what the stock registry calls the endpoint, empty where it has none.
func (k routeKind) stock() string {
	switch k {
	case baseRoute:
		return "base"
	case catalogRoute:
		return "catalog"
	case uploadsRoute:
		return "blob_upload"
	case uploadRoute:
		return "blob_upload_chunk"
	case referrersRoute:
		return ""
	}
	return k.content()
}

// route is what a path of the distribution API means.
type route struct {
	kind      routeKind
	name      string // of the repository
	reference string // tag or digest
}

// badRoute is why a path means nothing.
type badRoute struct {
	status  int
	code    errcode.ErrorCode
	message string
}

// maxNameLength is the length of repository names that the OCI distribution
// specification asks clients to stay within, host included.
const maxNameLength = 255

// isName tells whether name is one of a repository by the grammar of the OCI distribution
// specification, "Pulling manifests":
//
//	[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*
//
// The one that package reference has admits a registry's host, too, which has no place in a
// path. It is asked in each request, and so is not a regular expression.
func isName(name string) bool {
	separators := 1 // how many bytes are between letters now: the first has to be one
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			separators = 0
		case separators == 0 && (c == '.' || c == '_' || c == '-' || c == '/'):
			separators = 1
		case separators > 0 && i > 0 && c == name[i-1] && (c == '-' || c == '_' && separators == 1):
			separators++
		default:
			return false
		}
	}
	return separators == 0
}

// isTagName tells whether tag is one, by the same specification:
//
//	[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}
func isTagName(tag string) bool {
	for i := 0; i < len(tag); i++ {
		switch c := tag[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_':
		case i > 0 && (c == '.' || c == '-'):
		default:
			return false
		}
	}
	return len(tag) > 0 && len(tag) <= 128
}

// parseRoute reads the path of a request as it came over the wire. Nothing in
// the grammar of the API needs escaping, dots as path elements, or empty ones:
// they are refused, and not normalised, so that two servers in a row cannot
// understand one path in two ways. Prefix is escaped, too, and without slash at
// its end.
func parseRoute(escaped, prefix string) (route, *badRoute) {
	path, ok := strings.CutPrefix(escaped, prefix+"/v2/")
	if !ok {
		if strings.Contains(escaped, "%") {
			// The app, which unescapes it, might find a /v2/ in it.
			return route{}, nameInvalid("percent signs have no place in it")
		}
		if clean := pathpkg.Clean(escaped); clean != escaped && clean+"/" != escaped {
			// Nor is it redirected to what it might mean.
			return route{}, nameInvalid("there is no place for . and .. as parts of it, nor for two slashes in a row")
		}
		return route{}, nil
	}
	if strings.ContainsAny(path, `%\`) {
		return route{}, nameInvalid("percent signs and backslashes have no place in it")
	}
	switch path {
	case "":
		return route{kind: baseRoute}, nil
	case "_catalog":
		return route{kind: catalogRoute}, nil
	}
	rt, ok := split(path)
	if !ok {
		for part := range strings.SplitSeq(path, "/") {
			if part == ".." || part == "." {
				return route{}, nameInvalid(fmt.Sprintf("%q is no part of a name", part))
			}
		}
		return route{}, &badRoute{http.StatusNotFound, errcode.ErrorCodeUnsupported, "there is no such endpoint in the distribution API"}
	}
	if len(rt.name) > maxNameLength || !isName(rt.name) {
		return route{}, nameInvalid("lower-case letters, digits, and single . _ - between them, in parts separated by /, 255 characters in all")
	}
	return rt, rt.checkReference()
}

// split cuts a path into its repository and what is asked of it.
func split(path string) (route, bool) {
	if name, ok := strings.CutSuffix(path, "/tags/list"); ok {
		return route{kind: tagsRoute, name: name}, true
	}
	const uploads = "/blobs/uploads/"
	if strings.Contains(path, uploads) { // to look from the end is slow, and it is rare
		i := strings.LastIndex(path, uploads)
		if i+len(uploads) == len(path) {
			return route{kind: uploadsRoute, name: path[:i]}, true
		}
		return route{kind: uploadRoute, name: path[:i]}, true
	}
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return route{}, false
	}
	for _, end := range [...]struct {
		of   string
		kind routeKind
	}{{"/manifests", manifestRoute}, {"/blobs", blobRoute}, {"/referrers", referrersRoute}} {
		if name, ok := strings.CutSuffix(path[:i], end.of); ok {
			return route{kind: end.kind, name: name, reference: path[i+1:]}, true
		}
	}
	return route{}, false
}

// checkReference refuses tags and digests that cannot exist.
func (rt route) checkReference() *badRoute {
	switch {
	case rt.kind == tagsRoute, rt.kind == uploadsRoute, rt.kind == uploadRoute:
		return nil
	case rt.kind == manifestRoute && !strings.Contains(rt.reference, ":"):
		if !isTagName(rt.reference) {
			return &badRoute{http.StatusNotFound, errcode.ErrorCodeManifestUnknown,
				fmt.Sprintf("%.130q cannot be a tag: up to 128 letters, digits, and . _ -", rt.reference)}
		}
		return nil
	}
	if isSHA256(rt.reference) {
		return nil
	}
	if err := digest.Digest(rt.reference).Validate(); err != nil {
		return &badRoute{http.StatusBadRequest, errcode.ErrorCodeDigestInvalid,
			fmt.Sprintf("%.150q: %v; sha256, sha384 and sha512 are known", rt.reference, err)}
	}
	return nil
}

// isSHA256 tells whether s is a digest as nearly all are. Package digest, which has the last
// word on all others, takes a regular expression.
func isSHA256(s string) bool {
	encoded, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(encoded) != digest.SHA256.Size()*2 {
		return false
	}
	for i := 0; i < len(encoded); i++ {
		if c := encoded[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func nameInvalid(why string) *badRoute {
	return &badRoute{http.StatusBadRequest, errcode.ErrorCodeNameInvalid, "invalid repository name: " + why}
}
