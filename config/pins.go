package config

import (
	"errors"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/opencontainers/go-digest"

	"registry-module/internal/pattern"
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
func CheckPin(pin string) error {
	repository, tag, dgst := CutReference(pin)
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
	case strings.HasSuffix(pin, ":"), strings.HasSuffix(pin, "@"):
		return errors.New("ends where a tag or a digest is wanted: write for example team/app:latest, or team/app for all of its tags")
	case tag != "" && (!doublestar.ValidatePattern(tag) || strings.Contains(tag, "/")):
		return errors.New("has a tag that is not a pattern: write for example team/app:1.*, and end what begins with { or [")
	case strings.Trim(negations.Replace(tag), inTagPatterns) != "":
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
	// inTagPatterns are the characters of tags, and those that mean something in patterns.
	inTagPatterns = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-," + patternMarks
)

// negations takes the marks of negated classes out of patterns.
var negations = strings.NewReplacer("[!", "[", "[^", "[")

// badPinned says what is wrong with a pattern for names as they are stored, or
// nothing.
func badPinned(p string) string {
	if p = strings.TrimPrefix(p, "@"); p == "" {
		return "names no repository: write for example team/app:1.*, or team/** for all below team"
	}
	return pattern.Problem(p)
}
