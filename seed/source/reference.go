package source

import (
	_ "crypto/sha512" // for digests of images that are sums of it
	"errors"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// upstreamHost stands for the parent of a device in deployment manifests of IoT Edge.
const upstreamHost = "$upstream"

// maxImage is how long an image can be, in bytes: a host with 253, a name with 255, a tag
// with 128, a digest.
const maxImage = 1024

// checkImage says what is wrong with an image as clients write it, as the continuation of
// a sentence.
func checkImage(image string) error {
	switch rest, isUpstream := cutUpstream(image); {
	case image == "":
		return errors.New("is empty: write an image, for example quay.io/team/app:1.2")
	case len(image) > maxImage:
		return errors.New("is too long for an image")
	case strings.Contains(image, "://"):
		return errors.New("is a URL: leave out what is up to ://, for example quay.io/team/app:1.2")
	case strings.ContainsAny(image, " \t\n\r"):
		return errors.New("has a space in it: write one image, for example quay.io/team/app:1.2")
	case isUpstream && rest == "":
		return errors.New("names no repository: write for example $upstream:8000/team/app:1.2")
	case isUpstream:
		return checkReference("upstream:1/" + rest)
	case strings.Contains(image, "$"):
		return errors.New("has a $ that is none of a placeholder: write ${NAME} for a variable, or $upstream:8000/team/app:1.2 for what comes by way of the parent device")
	case strings.HasPrefix(image, "sha256:") && len(image) == len("sha256:")+64:
		return errors.New("is a digest without a name: write for example quay.io/team/app@sha256:<64 characters>")
	}
	return checkReference(image)
}

// checkReference checks what is of the form [HOST/]NAME[:TAG][@DIGEST].
func checkReference(image string) error {
	if _, err := reference.ParseNormalizedNamed(image); err == nil {
		return nil
	}
	name, tag, dgst := cut(image)
	switch {
	case strings.HasSuffix(image, ":"), strings.HasSuffix(image, "@"):
		return errors.New("ends where a tag or a digest is wanted: write for example quay.io/team/app:1.2")
	case dgst != "" && digest.Digest(dgst).Validate() != nil:
		return errors.New("has a digest that is none: write all of it, for example quay.io/team/app@sha256:<64 characters>")
	case name == "":
		return errors.New("names no repository: write for example quay.io/team/app:1.2")
	case strings.ContainsFunc(name[strings.IndexByte(name, '/')+1:], func(c rune) bool { return 'A' <= c && c <= 'Z' }):
		return errors.New("has an upper-case letter in its name: names of repositories are in lower case")
	case tag != "" && !reference.TagRegexp.MatchString(tag), len(reference.TagRegexp.FindString(tag)) != len(tag):
		return errors.New("has a tag that is none: tags are letters, digits and . _ -, at most 128, and begin with neither . nor -")
	}
	return errors.New("is not an image: write [HOST/]NAME[:TAG][@DIGEST], for example quay.io/team/app:1.2")
}

// cutUpstream cuts $upstream, with or without port, and the slash behind it off an image.
func cutUpstream(image string) (rest string, ok bool) {
	if !beginsUpstream(image) {
		return "", false
	}
	host, rest, _ := strings.Cut(image, "/")
	port := strings.TrimPrefix(host, upstreamHost)
	if digits := strings.TrimPrefix(port, ":"); port != "" && (digits == "" || len(digits) > 5 || strings.Trim(digits, "0123456789") != "") {
		return "", false
	}
	return rest, true
}

// beginsUpstream tells whether text begins with $upstream as a host.
func beginsUpstream(text string) bool {
	rest, ok := strings.CutPrefix(text, upstreamHost)
	return ok && (rest == "" || rest[0] == ':' || rest[0] == '/')
}

// cut cuts an image into its name, tag and digest, each empty where there is none. It
// checks nothing.
func cut(image string) (name, tag, dgst string) {
	image, dgst, _ = strings.Cut(image, "@")
	if colon := strings.LastIndexByte(image, ':'); colon >= 0 && !strings.Contains(image[colon:], "/") {
		image, tag = image[:colon], image[colon+1:]
	}
	return image, tag, dgst
}

// shownImage is an image as a message can have it: without what can be a password.
func shownImage(image string) string {
	image = strings.TrimSpace(image)
	// A digest has no slash behind its @, and is a sum.
	if at := strings.LastIndexByte(image, '@'); at >= 0 && !digestLike(image[at+1:]) {
		scheme, _, ok := strings.Cut(image[:at], "://")
		if ok {
			scheme += "://"
		} else {
			scheme = ""
		}
		image = scheme + "REDACTED" + image[at:]
	}
	return shown(image)
}

// digestLike tells whether text begins as a digest does, or is nothing.
func digestLike(text string) bool {
	algorithm, _, ok := strings.Cut(text, ":")
	return text == "" || ok && (algorithm == "sha256" || algorithm == "sha384" || algorithm == "sha512")
}
