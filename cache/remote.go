package cache

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"registry-module/cache/tagpolicy"
	"registry-module/internal/slots"
)

// Remote is a registry that content is of, and how the cache deals with it. The
// zero value of all but Host is good.
type Remote struct {
	// Host identifies the remote, see [Upstream].
	Host string

	// Upstream is asked for what is missing. Without one the cache is an offline
	// mirror of the remote: what it does not hold does not exist.
	Upstream Upstream

	// Naming says under which names its repositories are stored.
	Naming Naming

	// TagTTL is how long a tag is answered without asking the remote, where none of
	// TagRules says something else. 0 asks each time.
	TagTTL   time.Duration
	TagRules tagpolicy.Rules

	// StaleWhileRevalidate is for how long after that a tag is still answered at
	// once, while the remote is asked (RFC 5861, section 3). It is no longer than the
	// lifetime itself. 0 is not at all.
	StaleWhileRevalidate time.Duration

	// MaxStale is how old the last confirmation of a tag may be that is answered
	// while the remote cannot be asked. 0 is no limit, negative is not at all.
	MaxStale time.Duration

	// NegativeTTL is how long the remote is not asked again about what it has said
	// does not exist; default 30 s, negative is not at all.
	NegativeTTL time.Duration

	// TTL is how long content is kept that nobody asks for, unless the remote is away; 0
	// is for ever.
	TTL time.Duration

	// DeniedIsAbsent tells that the remote denies what does not exist: a [Name]
	// that it denies may be looked for elsewhere.
	DeniedIsAbsent bool

	// Connections is how many connections fetch one large blob, where the remote
	// gives parts; default 4.
	Connections int

	// MaxConnections is how many connections fetch blobs from the remote at the
	// same time, all blobs together; default 16. A few more are for small ones.
	MaxConnections int

	// RetryFor is how long a download that has begun is tried again while no
	// byte comes; default 5 minutes, negative is not at all.
	RetryFor time.Duration
}

// Naming says under which names a remote's repositories are stored, so that no
// two remotes share one. The zero value stores them under their own.
type Naming struct {
	// Prefix stands before the names, for example "quay.io/". It is empty for the
	// remote that the bare names belong to.
	Prefix string
	// Others are the prefixes of other remotes. A bare name that begins with one
	// of them would be taken for a name of theirs: it gets Aside as its prefix,
	// which must be one that no repository's name can begin with.
	Others []string
	Aside  string
}

// Key returns the name under which the repository that the remote calls name is
// stored.
func (n Naming) Key(name string) string {
	if n.Prefix == "" && n.isOthers(name) {
		return n.Aside + name
	}
	return n.Prefix + name
}

// Name is the reverse of Key. It returns false for names of other remotes.
func (n Naming) Name(key string) (name string, ok bool) {
	if n.Prefix != "" {
		return strings.CutPrefix(key, n.Prefix)
	}
	if name, ok := strings.CutPrefix(key, n.Aside); ok && n.Aside != "" {
		return name, true
	}
	return key, !n.isOthers(key)
}

func (n Naming) isOthers(name string) bool {
	return slices.ContainsFunc(n.Others, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// remote is a Remote as it was configured at one time, with what goes on there. It does
// not change: what has begun with it goes on with it, see [Cache.Reconfigure].
type remote struct {
	Remote
	// availability is Upstream's, nil where it does not tell.
	availability Availability
	// epoch is another one for each host, and for each Upstream that the host has had: what
	// one of them has said, or is being asked, is nothing that another one has.
	epoch string
	*lane
}

// lane is what all have in common that a remote is and was. Remotes do not wait for each
// other.
type lane struct {
	// asking bounds the requests that run, listing the lists among them that clients
	// wait for, fillSlots the fills that have begun, and
	// streamSlots the streams of blobs.
	asking      chan struct{}
	listing     chan struct{}
	fillSlots   *slots.Slots
	streamSlots *slots.Slots
	// newest is what can be asked of the remote now; nil where it never could be.
	newest atomic.Pointer[remote]
}

func newLane() *lane {
	return &lane{
		asking:      make(chan struct{}, maxAsking),
		listing:     make(chan struct{}, maxListing),
		fillSlots:   slots.New(slots.Limits{Max: maxFilling, Reserve: maxFilling / 4}),
		streamSlots: slots.New(slots.Limits{}),
	}
}

// idle tells whether nothing goes on there.
func (l *lane) idle() bool {
	return len(l.asking)+len(l.listing)+l.fillSlots.InUse()+l.fillSlots.Waiting()+l.streamSlots.InUse()+l.streamSlots.Waiting() == 0
}

func newRemote(r Remote, l *lane, epoch string) *remote {
	r.Connections = cmp.Or(max(r.Connections, 0), 4)
	r.RetryFor = cmp.Or(r.RetryFor, 5*time.Minute)
	availability, _ := r.Upstream.(Availability)
	return &remote{Remote: r, availability: availability, epoch: epoch, lane: l}
}

// serve makes r what its host is from now on.
func (r *remote) serve() {
	r.streamSlots.SetMax(r.MaxConnections)
	if r.Upstream != nil {
		r.newest.Store(r)
	}
}

// current is who to ask for the rest of what has begun to come: the host's Upstream of now,
// since that of then may have lost its right to ask, or r's own.
func (r *remote) current() Upstream {
	if newest := r.newest.Load(); newest != nil {
		return newest.Upstream
	}
	return r.Upstream
}

// served is a remote of the cache, with how its repositories are named now, which can
// change when another one is added. Remote.Naming is how they were at first.
type served struct {
	*remote
	naming Naming
	// added tells that it is one of [Cache.AddRemote].
	added bool
}

// serves returns the remote with that host, nil where there is none.
func (c *Cache) serves(host string) *served { return hosted(*c.remotes.Load(), host) }

// hosted returns the one of remotes with that host, nil where there is none.
func hosted(remotes []served, host string) *served {
	i := slices.IndexFunc(remotes, func(r served) bool { return r.Host == host })
	if i < 0 {
		return nil
	}
	return &remotes[i]
}

// AddRemote adds a remote that nobody can be asked for, so that the cache serves what is
// brought in of it. It does nothing where there is one of that host. Bare names that begin
// with r.Naming.Prefix are of r from then on: the remote that they belonged to gets its
// Aside for them. That costs nothing unless it has such repositories.
func (c *Cache) AddRemote(r Remote) error {
	if r.Upstream != nil {
		return fmt.Errorf("cache: the remote %s can be asked, and so has to be there from the start", r.Host)
	}
	c.configuring.Lock()
	defer c.configuring.Unlock()
	if c.serves(r.Host) != nil {
		return nil
	}
	remotes, err := withAdded(*c.remotes.Load(), served{newRemote(r, c.laneOf(r.Host), c.newEpoch()), r.Naming, true})
	if err != nil {
		return err
	}
	c.serveRemotes(remotes)
	return nil
}

// withAdded returns remotes with one more that nobody can be asked for, and each of them
// named beside the others.
func withAdded(remotes []served, r served) ([]served, error) {
	remotes = slices.Clone(remotes)
	for i, other := range remotes {
		switch {
		case other.naming.Prefix == r.naming.Prefix:
			return nil, sameNames(other.Host, r.Host)
		case other.naming.Prefix == "":
			remotes[i].naming = other.naming.beside(other.Host, r.naming.Prefix)
		case r.naming.Prefix == "":
			r.naming = r.naming.beside(r.Host, other.naming.Prefix)
		}
	}
	return append(remotes, r), nil
}

func sameNames(host, other string) error {
	return fmt.Errorf("cache: the remotes %s and %s would be stored under the same names", host, other)
}

// beside returns n, of the remote host that the bare names belong to, when prefix is that
// of another remote.
func (n Naming) beside(host, prefix string) Naming {
	if !slices.Contains(n.Others, prefix) {
		n.Others = append(slices.Clone(n.Others), prefix)
	}
	n.Aside = cmp.Or(n.Aside, "@"+host+"/")
	return n
}

// Place is a repository of a remote.
type Place struct {
	// Host is the remote's.
	Host string
	// Repo is the repository's name as the remote knows it. It must have passed
	// the grammar of the distribution specification.
	Repo string
}

// Repository returns the repository at p, which need not exist. It returns false
// where p's remote is none of the cache's.
func (c *Cache) Repository(p Place) (*Repository, bool) {
	return c.repository(*c.remotes.Load(), p)
}

// repository is Repository among some remotes.
func (c *Cache) repository(remotes []served, p Place) (*Repository, bool) {
	r := hosted(remotes, p.Host)
	if r == nil {
		return nil, false
	}
	return &Repository{c: c, remote: r.remote, name: p.Repo, key: r.naming.Key(p.Repo)}, true
}

// owner returns the repository that is stored as key, nil where its remote is none
// of the cache's.
func (c *Cache) owner(key string) *Repository {
	for _, r := range *c.remotes.Load() {
		if name, ok := r.naming.Name(key); ok {
			return &Repository{c: c, remote: r.remote, name: name, key: key}
		}
	}
	return nil
}

// stored returns the repository of the remote host that is stored as key, nil
// where there is none.
func (c *Cache) stored(host, key string) *Repository {
	if r := c.owner(key); r != nil && r.remote.Host == host {
		return r
	}
	return nil
}

// Repository is one repository of a remote, and what the cache holds of it.
type Repository struct {
	c      *Cache
	remote *remote
	name   string // as the remote knows it
	key    string // as it is stored
	force  bool   // the remote is to be asked, see Fresh
}

// Fresh returns the repository for a client that wants to know what the remote says
// now: what is stored and can change is confirmed first, whatever its lifetime, and
// what the remote has lately said not to exist is asked for again. While the remote is
// away that makes no difference.
func (r *Repository) Fresh() *Repository {
	fresh := *r
	fresh.force = true
	return &fresh
}

// Place returns which repository it is.
func (r *Repository) Place() Place { return Place{r.remote.Host, r.name} }

// missing is the answer for what is not stored where no remote can be asked.
func (r *Repository) missing(what string) error { return &localError{what} }

// localError is ErrNotFound for content of an offline mirror.
type localError struct{ what string }

func (e *localError) Error() string {
	return fmt.Sprintf("%s is not in the cache, and no remote registry is configured", e.what)
}

func (e *localError) Unwrap() error { return ErrNotFound }
