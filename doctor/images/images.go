// Package images reads the names of images as people write them, and knows some that can
// be tried.
//
// It promises that what it has read fits into a URL as it is. It trusts nothing in names.
// Of this module it imports upstream, for what Docker Hub is called.
package images

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"

	"registry-module/upstream"
)

// Default returns a small public image of a well-known registry, which is
// pulled for tests all over the world, or nothing.
func Default(host string) string {
	return map[string]string{
		upstream.DockerHub:  "library/hello-world:latest",
		"gcr.io":            "distroless/static:latest",
		"ghcr.io":           "containerd/busybox:1.36",
		"mcr.microsoft.com": "hello-world:latest",
		"public.ecr.aws":    "docker/library/hello-world:latest",
		"quay.io":           "prometheus/busybox:latest",
		"registry.k8s.io":   "pause:3.9",
	}[host]
}

// Names of repositories and tags, as the OCI distribution specification has them
// under "Pulling manifests".
var (
	repositoryName = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagName        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// Parse reads NAME[:TAG] or NAME@DIGEST, in which NAME may begin with the
// registry's host, and returns the repository and the tag or digest. The tag is
// latest where there is none, and on Docker Hub a name without a slash is in
// library.
func Parse(host, image string) (repo, ref string, err error) {
	image = strings.TrimPrefix(image, host+"/")
	if host == upstream.DockerHub {
		image = strings.TrimPrefix(image, "docker.io/")
	}
	repo, ref, hasDigest := strings.Cut(image, "@")
	if slash, colon := strings.LastIndexByte(repo, '/'), strings.LastIndexByte(repo, ':'); colon > slash {
		if !hasDigest { // a tag beside a digest says nothing
			ref = repo[colon+1:]
		}
		repo = repo[:colon]
	} else if !hasDigest {
		ref = "latest"
	}
	if host == upstream.DockerHub && !strings.Contains(repo, "/") {
		repo = "library/" + repo
	}
	if !repositoryName.MatchString(repo) {
		return "", "", fmt.Errorf("%q is not the name of a repository: write lower-case letters, digits and slashes", repo)
	}
	if hasDigest {
		if digest.Digest(ref).Validate() != nil {
			return "", "", errors.New("what follows the @ is not a digest: write for example sha256:<64 characters>")
		}
		return repo, ref, nil
	}
	if !tagName.MatchString(ref) {
		return "", "", fmt.Errorf("%q is not a tag", ref)
	}
	return repo, ref, nil
}
