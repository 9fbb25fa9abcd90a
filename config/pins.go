package config

import (
	"errors"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/opencontainers/go-digest"
)

// pins reads the patterns for images that are never removed to make room. One that
// cannot match is an error: who relies on it would notice when the image is gone.
func (l *loader) pins(patterns list) []string {
	for _, p := range patterns {
		if err := CheckPin(p); err != nil {
			l.bad("cache.pins", p, "%v", err)
		}
	}
	return patterns
}

// CheckPin says what is wrong with a pattern for images to be kept: REPOSITORY,
// REPOSITORY:TAG or REPOSITORY@DIGEST, where the first component of REPOSITORY can be
// the host of a registry, with or without port. In REPOSITORY and TAG there can be
// patterns as for repositories.
func CheckPin(pattern string) error {
	repository, tag, dgst := CutReference(pattern)
	if dgst != "" {
		if err := digest.Digest(dgst).Validate(); err != nil {
			return errors.New("is not the digest of an image: write all of it, for example team/app@sha256:<64 characters>")
		}
	}
	first, rest, ok := strings.Cut(repository, "/")
	if ok && strings.Contains(first, ":") && !strings.ContainsAny(first, patternMarks) {
		repository = rest // a host with its port is no part of a name
	}
	if text := badPinned(repository); text != "" {
		return errors.New(text)
	}
	switch {
	case strings.HasSuffix(pattern, ":"), strings.HasSuffix(pattern, "@"):
		return errors.New("ends where a tag or a digest is wanted: write for example team/app:latest, or team/app for all of its tags")
	case tag != "" && (!doublestar.ValidatePattern(tag) || strings.Contains(tag, "/")):
		return errors.New("has a tag that is not a pattern: write for example team/app:1.*, and end what begins with { or [")
	case strings.Trim(negations.Replace(tag), inPatterns+upperCase) != "":
		return errors.New("has characters that are in no tag: write letters, digits, and . _ -")
	}
	return nil
}

// CutReference cuts an image as people write it, or a pattern for images, into its
// repository, tag and digest, each empty where there is none. It checks nothing.
func CutReference(image string) (repository, tag, dgst string) {
	// At the beginning an @ is part of the name of a repository, as it is stored.
	if at := strings.LastIndexByte(image, '@'); at > 0 && !strings.Contains(image[at:], "/") {
		image, dgst = image[:at], image[at+1:]
	}
	if colon := strings.LastIndexByte(image, ':'); colon >= 0 && !strings.Contains(image[colon:], "/") {
		image, tag = image[:colon], image[colon+1:]
	}
	return image, tag, dgst
}

const (
	patternMarks = `*?[]{}\`
	upperCase    = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// negations takes the marks of negated classes out of patterns.
var negations = strings.NewReplacer("[!", "[", "[^", "[")

// badPinned says what is wrong with a pattern for names as they are stored, or
// nothing.
func badPinned(p string) string {
	p = strings.TrimPrefix(p, "@")
	switch {
	case p == "":
		return "names no repository: write for example team/app:1.*, or team/** for all below team"
	case !doublestar.ValidatePattern(p):
		return "is not a pattern: write for example library/* or team/**:1.*, and end what begins with { or [; there are no spaces in patterns"
	case p[0] == '/' || strings.HasSuffix(p, "/") || strings.Contains(p, "//"):
		return "has a slash at its beginning or end, or two in a row: write for example library/* or team/**:1.*"
	case strings.Trim(negations.Replace(p), inPatterns) != "":
		return "has characters that are in no name of a repository: write lower-case letters, digits, and . _ - /, with the tag behind a colon"
	case slices.ContainsFunc(strings.FieldsFunc(p, between), func(s string) bool { return s != "**" && strings.Contains(s, "**") }):
		return "has ** as a part of a component, where it is no more than *: write for example team/**"
	}
	return ""
}
