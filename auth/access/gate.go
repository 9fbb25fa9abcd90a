package access

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/distribution/distribution/v3/registry/auth"
	"github.com/sirupsen/logrus"

	"registry-module/auth/policy"
)

// Checker asks a remote whether it serves something of a repository to who logs in with a
// user name and a password: the manifest or blob that reference stands for, or what refers
// to it, where kind is "manifest", "blob" or "referrers", and the list of tags where it is
// "tags" or empty. Nil is yes. Errors are or wrap those of package cache: ErrDenied is no,
// and ErrNotFound that there is no such thing, which may be no as well; with all others the
// remote could not be asked. They contain no secrets.
type Checker interface {
	Check(ctx context.Context, repo, kind, reference, user, password string) error
}

// Document is a small file that is kept durably.
type Document interface {
	// Read returns what was last written. Where nothing ever was, the error is
	// [io/fs.ErrNotExist].
	Read(ctx context.Context) ([]byte, error)
	// Write replaces the content as a whole. When it returns nil, it survives a loss
	// of power.
	Write(ctx context.Context, content []byte) error
}

// PassThrough says how callers are let in to what is of one remote.
type PassThrough struct {
	// Checker asks the remote.
	Checker Checker
	// TTL is for how long what the remote has said is not asked again. Default: 10
	// minutes.
	TTL time.Duration
	// Grace is for how long, since it was last confirmed, a caller goes on to be let in
	// while the remote cannot be asked. 0 is not at all.
	Grace time.Duration
}

// Options say who may pull what. With the zero value, everybody may pull everything.
type Options struct {
	// Controller knows who logs in, and, without a policy, decides. Default: none.
	Controller auth.AccessController

	// PasswordFile is the file with the hashes of passwords that Controller compares
	// with, where it does that. Then log-ins are remembered for as long as the file does
	// not change, and slowed down when they fail. Default: Controller is asked each time.
	PasswordFile string

	// Policy returns what callers may pull, as it is now; nil is everything that
	// Controller allows. Default: nil.
	Policy func() *policy.Policy

	// PassThrough are, by their hosts, the remotes that let callers in themselves.
	// Controller has no say about what is of them.
	PassThrough map[string]PassThrough

	// Document keeps whom those remotes have let in over restarts. Default: it is not
	// kept.
	Document Document

	// Realm is what log-ins are for, as callers are told. Default: "registry-module".
	Realm string

	// Log gets failed log-ins, as warnings. Default: nothing is logged.
	Log logrus.FieldLogger

	// Now is the clock. Default: [time.Now].
	Now func() time.Time
}

// Gate decides who may pull what. It is safe for use by several goroutines.
type Gate struct {
	controller auth.AccessController
	policy     func() *policy.Policy
	remotes    map[string]PassThrough
	realm      string
	now        func() time.Time

	ids      *identifier
	logins   *logins // nil: the controller is asked each time
	brake    *brake
	verdicts *verdicts
	saved    *saved
	checks   *slots // of strangers
	again    *slots // of those whom a remote has let in before
	asking   flights[pair]

	work *work
	end  context.CancelFunc // of work
}

// defaultTTL is for how long what a remote has said is not asked again.
const defaultTTL = 10 * time.Minute

// New returns what decides as opts say. It reads Document, and asks nobody.
func New(opts Options) (*Gate, error) {
	var errs []error
	remotes := maps.Clone(opts.PassThrough)
	for _, host := range slices.Sorted(maps.Keys(remotes)) {
		by := remotes[host]
		switch {
		case host == "":
			errs = append(errs, errors.New("access control: a remote without a host cannot let callers in"))
		case by.Checker == nil:
			errs = append(errs, fmt.Errorf("access control: nobody can ask %s about callers", host))
		case by.TTL < 0 || by.Grace < 0:
			errs = append(errs, fmt.Errorf("access control: what %s says about callers holds for less than no time (REGISTRY_PROXY_PASSTHROUGHTTL, REGISTRY_PROXY_PASSTHROUGHGRACE)", host))
		}
		by.TTL = cmp.Or(by.TTL, defaultTTL)
		remotes[host] = by
	}
	if opts.PasswordFile != "" && opts.Controller == nil {
		errs = append(errs, errors.New("access control: there is a file of passwords, and nobody who reads it"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if opts.Log == nil {
		discard := logrus.New()
		discard.SetOutput(io.Discard)
		opts.Log = discard
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Policy == nil {
		opts.Policy = func() *policy.Policy { return nil }
	}
	g := &Gate{
		controller: opts.Controller, policy: opts.Policy, remotes: remotes,
		realm: cmp.Or(opts.Realm, "registry-module"), now: opts.Now,
		ids: newIdentifier(), brake: newBrake(opts.Now, opts.Log), verdicts: newVerdicts(),
		checks: newSlots(maxChecks, maxWaiting), again: newSlots(maxChecks, maxWaiting),
	}
	if opts.PasswordFile != "" {
		g.logins = newLogins(opts.Controller, opts.PasswordFile, opts.Now, newSlots(maxHashing, maxWaiting))
	}
	if len(remotes) == 0 {
		opts.Document = nil
	}
	life, end := context.WithCancel(context.Background())
	g.work, g.end = &work{life: life}, end
	g.saved = loadSaved(opts.Document, remotes, g.verdicts, g.work, opts.Now, opts.Log)
	return g, nil
}

// Save saves whom remotes have let in, if there is something new, for a Gate that is to take
// over.
func (g *Gate) Save(ctx context.Context) error { return g.saved.save(ctx) }

// Close ends what is under way, and saves whom remotes have let in. Authorize must not be
// called any more.
func (g *Gate) Close(ctx context.Context) error {
	g.end()
	g.work.Wait()
	return g.saved.save(ctx)
}
