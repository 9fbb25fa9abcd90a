package seed

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
)

// reference is an image as people write it, cut into its parts. Of tag and dgst at most one
// is set: a digest says all, and what a tag beside it stands for is not looked at.
type reference struct {
	name string
	tag  string
	dgst digest.Digest
}

// ref is what the image is asked for by.
func (r reference) ref() string {
	if r.dgst != "" {
		return r.dgst.String()
	}
	return r.tag
}

const defaultTag = "latest"

// maxImage bounds, in bytes, how an image is written: 255 for the name (OCI distribution
// specification, "Pulling manifests"), and some for host, tag and digest.
const maxImage = 1 << 10

var (
	// Of the OCI distribution specification, "Pulling manifests".
	tagForm       = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	componentForm = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$`)
	// hostForm is as wide as what stands for a host: with port, in brackets, as
	// $upstream:PORT, or as it is stored, with @ in front.
	hostForm = regexp.MustCompile(`^[$@]?[\[\]A-Za-z0-9._:-]+$`)
)

// parseReference reads how an image is written. The tag is latest where there is neither
// tag nor digest, unless the repository alone is meant.
func parseReference(image string, repository bool) (reference, error) {
	if image == "" {
		return reference{}, errors.New("names no image: write for example docker.io/library/nginx:1.27")
	}
	if len(image) > maxImage {
		return reference{}, fmt.Errorf("is longer than %d characters", maxImage)
	}
	name, tag, dgst := cutReference(image)
	if err := checkName(name); err != nil {
		return reference{}, err
	}
	switch {
	case strings.HasSuffix(image, ":"), strings.HasSuffix(image, "@"):
		return reference{}, errors.New("ends where a tag or a digest is wanted")
	case repository && (tag != "" || dgst != ""):
		return reference{}, errors.New("has a tag or a digest beside patterns for tags: write the repository alone, or leave out the patterns")
	case tag != "" && !tagForm.MatchString(tag):
		return reference{}, fmt.Errorf("has the tag %.40q, which can be none: tags have letters, digits, and . _ -, and at most 128 of them", tag)
	case dgst != "":
		if err := digest.Digest(dgst).Validate(); err != nil {
			return reference{}, errors.New("has no digest behind the @: write all of it, for example @sha256:<64 characters>")
		}
		return reference{name: name, dgst: digest.Digest(dgst)}, nil
	case tag == "" && !repository:
		tag = defaultTag
	}
	return reference{name: name, tag: tag}, nil
}

// cutReference cuts an image into its repository, tag and digest, each empty where there is
// none. It checks nothing.
func cutReference(image string) (name, tag, dgst string) {
	// At the beginning an @ is part of the name of a repository, as it is stored.
	if at := strings.LastIndexByte(image, '@'); at > 0 && !strings.Contains(image[at:], "/") {
		image, dgst = image[:at], image[at+1:]
	}
	if colon := strings.LastIndexByte(image, ':'); colon >= 0 && !strings.Contains(image[colon:], "/") {
		image, tag = image[:colon], image[colon+1:]
	}
	return image, tag, dgst
}

// checkName says what is wrong with the name of a repository, with or without host.
func checkName(name string) error {
	first, rest, ok := strings.Cut(name, "/")
	if ok && !hostForm.MatchString(first) {
		return fmt.Errorf("begins with %.40q, which can be neither a host nor a part of a name", first)
	}
	if !ok {
		rest = first
	}
	for component := range strings.SplitSeq(rest, "/") {
		if !componentForm.MatchString(component) {
			return fmt.Errorf("has %.40q in its name: names have lower-case letters and digits, with single . _ - in between, and slashes", component)
		}
	}
	return nil
}
