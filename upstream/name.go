package upstream

import (
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// checkName refuses what is not the name of a repository. Names go into paths
// and into the scopes of tokens, where other characters have a meaning.
func (r *Remote) checkName(op, repo string) error {
	if _, err := reference.WithName(repo); err != nil {
		return r.unasked(op, "not the name of a repository: %w", err)
	}
	return nil
}

// checkReference refuses what is neither a tag nor a digest.
func (r *Remote) checkReference(op, repo, ref string) error {
	named, err := reference.WithName(repo)
	if err != nil {
		return r.unasked(op, "not the name of a repository: %w", err)
	}
	if digest.Digest(ref).Validate() == nil {
		return nil
	}
	if _, err := reference.WithTag(named, ref); err != nil {
		return r.unasked(op, "neither a tag nor a digest")
	}
	return nil
}

func (r *Remote) checkBlob(op, repo string, dgst digest.Digest) error {
	if err := r.checkName(op, repo); err != nil {
		return err
	}
	if err := dgst.Validate(); err != nil {
		return r.unasked(op, "not a digest: %w", err)
	}
	return nil
}
