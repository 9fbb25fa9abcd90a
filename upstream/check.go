package upstream

import (
	"context"
	"errors"
	"net/url"
	"slices"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"

	"registry-module/cache"
)

// Check asks whether the remote serves something of repo to who logs in with username and
// password: the manifest or blob that reference stands for, where kind is "manifest" or
// "blob", the manifest that is referred to, where it is "referrers", and otherwise the
// list of tags, of which it asks for one. Nil is yes.
//
// The remote's own credentials, and the tokens that were got for them, have no part in it.
// Those that are given go to the remote and its token service only, as if they were the
// remote's, and nothing is kept of them. What is shared is how the remote wants to be
// asked, and the connections, with the client certificate that is configured.
//
// Errors are [cache.ErrDenied] where the remote has refused, as an [*cache.UpstreamError]
// with its status; [cache.ErrNotFound] where it says that there is no such thing, which it
// may say in place of a refusal; and others where it could not be asked, or where what it
// says is no answer to the question. A remote that wants no log-in checks none, and so is
// [cache.ErrInvalid].
func (r *Remote) Check(ctx context.Context, repo, kind, reference, username, password string) error {
	op := "checking a caller's credentials for " + clean(repo)
	if username == "" {
		return r.failure(cache.ErrDenied, op, 0, local{errors.New("there is no user name")})
	}
	if err := r.checkName(op, repo); err != nil {
		return err
	}
	challenge, err := r.auth.learned(ctx, r.query(op, "", repo, "/"))
	if err != nil {
		return err
	}
	caller, end := r.as(ctx, authn.AuthConfig{Username: username, Password: password})
	defer end()
	caller.auth.learn(challenge)
	err = caller.checkContent(ctx, repo, kind, reference)
	if now := caller.auth.known(); err == nil && (now == nil || now.Scheme == "") {
		err = r.failure(cache.ErrInvalid, op, 0, errors.New("the registry wants no log-in, so that it does not check any: "+
			"let callers through without it (REGISTRY_PROXY_PASSTHROUGH=false)"))
	}
	return r.verdict(err)
}

// as returns the remote as it is for who has other credentials, for as long as end was
// not called: with the connections of r, and none of what it knows for its own.
func (r *Remote) as(ctx context.Context, config authn.AuthConfig) (_ *Remote, end context.CancelFunc) {
	caller := &Remote{
		base: r.base, agent: r.agent, name: r.name, stall: r.stall,
		own: r.own, foreign: r.foreign, contact: r.contact, observe: r.observe, log: r.log,
		cursors: make(map[cursorKey]*url.URL),
	}
	r.secrets.mu.Lock()
	// A proxy in between may repeat its own password.
	caller.secrets.given = ring{slices.Clone(r.secrets.given.secrets), r.secrets.given.next}
	r.secrets.mu.Unlock()
	caller.secrets.AddCredentials(config)
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	caller.close = end
	caller.auth = newAuthorizer(life, caller, authn.FromConfig(config), r.auth.realms)
	caller.auth.now = r.auth.now
	return caller, end
}

// checkContent asks for something of repo.
func (r *Remote) checkContent(ctx context.Context, repo, kind, reference string) error {
	switch kind {
	case "manifest", "referrers":
		desc, err := r.Resolve(ctx, repo, reference, "")
		if err != nil || desc.MediaType != "" || desc.Digest != "" {
			return err
		}
		// It does not answer HEAD, and so has not said anything.
	case "blob":
		_, err := r.StatBlob(ctx, repo, digest.Digest(reference))
		return err
	}
	_, _, err := r.Tags(ctx, repo, 1, "")
	return err
}

// verdict is err as the answer of the remote about a caller: what is no refusal of its own
// is not one.
func (r *Remote) verdict(err error) error {
	e, ok := errors.AsType[*cache.UpstreamError](err)
	if !ok {
		return err
	}
	v := *e
	if v.Kind == cache.ErrDenied && (v.Elsewhere || v.Status == 0) {
		v.Kind = cache.ErrUnavailable
	}
	if v.Err != nil && r.secrets.Contains(v.Err.Error()) {
		v.Err = &explained{text: r.clean(v.Err.Error()), err: v.Err}
	}
	return &v
}
