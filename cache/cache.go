package cache

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
)

// Options are what [New] needs. Blobs, Partials, Refs and Index are required; the
// zero value of the others is good. Some can be changed later, see [Cache.Reconfigure].
type Options struct {
	Blobs    Blobs
	Partials Partials
	Refs     Refs
	Index    Index

	// Remotes are the registries that content is of. No two have the same host.
	Remotes []Remote

	// BindingTTL is how long what a [Name] has turned out to mean is not asked
	// about again; default 30 days, negative is for ever.
	BindingTTL time.Duration

	// Usage tells what content takes of the storage; by default its size.
	Usage Usage

	// Pinned keeps which images are pinned; by default that ends with the process.
	Pinned Document

	// Pins are patterns for images that are kept, see [Pin].
	Pins []string

	// IndexDamaged tells that entries of the index may have been lost: it is rebuilt.
	IndexDamaged bool

	// MaxSize is how many bytes of storage are taken, drafts and the index included; 0
	// is no limit.
	MaxSize int64

	// MinFree tells how many bytes of a storage of total bytes to leave free;
	// nil leaves none.
	MinFree func(total int64) int64

	// PartialTTL is how long an unfinished download is kept that nobody goes on
	// with; default a week, negative is not at all.
	PartialTTL time.Duration

	// Resume makes the cache go on with unfinished downloads by itself, and not
	// only when somebody asks for them.
	Resume bool

	// Prefetch makes [Repository.Prefetch] fetch what images consist of.
	Prefetch bool

	// Attached makes [Repository.Prefetch] fetch what is attached to images:
	// signatures, attestations, SBOMs.
	Attached bool

	// Quarantine keeps stored content that turned out damaged; nil: it is removed.
	Quarantine Quarantine

	// ScrubInterval is how long after one pass in the background over all that is stored,
	// which finds what is damaged, the next one begins; 0 or less is never. ScrubRate is
	// how many bytes it reads in a second; 0 is no limit.
	ScrubInterval time.Duration
	ScrubRate     int64

	// Observer is told what happens; nil for nobody.
	Observer Observer

	// Log gets what an operator should know; default nothing.
	Log logrus.FieldLogger

	// Now is the clock; default time.Now.
	Now func() time.Time
}

// Cache answers for the content of remote registries. Create it with [New].
type Cache struct {
	opts    fixed
	owing   *owingIndex // opts.Index
	log     logrus.FieldLogger
	space   *space
	links   *countedRefs // opts.Refs; nil where links take nothing
	remotes atomic.Pointer[[]served]
	// settings are those of the options that can change.
	settings atomic.Pointer[settings]
	// configuring keeps those apart who change remotes or settings, and guards configured.
	configuring sync.Mutex
	configured  configured
	// naming is held for reading by who writes under the name of a repository, from when it
	// has looked whose that is. It is taken between contents and all other locks.
	naming sync.RWMutex

	// manifests are the small manifests that were used last, by repository
	// and digest.
	manifests *lru.Cache[manifestKey, Manifest]
	// decoded are the entries of tags that were used last, by their text.
	decoded *lru.Cache[string, tagRecord]
	// memory is what remotes have said that they are not asked about again for a
	// while.
	memory *lru.Cache[string, remembered]
	// flights coalesce requests for the same manifest or tag.
	flights singleflight.Group
	// unwatched are the keys of flights that nobody waits for, with whether somebody has
	// done so in vain.
	unwatched sync.Map // of string to bool
	// tags keeps those apart who record what a tag stands for. What happens is numbered
	// in order, and recorded keeps under which number something was recorded of a tag.
	tags     stripes
	order    atomic.Uint64
	recorded *lru.Cache[string, uint64]
	// peeked is what remotes have last said of tags without that being recorded.
	peeked *lru.Cache[string, peeked]
	// bare is when remotes have said that nothing refers to what is not stored yet.
	bare *lru.Cache[string, time.Time]
	// lists keeps those apart who read and write lists of referrers.
	lists sync.RWMutex
	// buffers are of streamBuffer bytes, for streams that come and go.
	buffers sync.Pool
	// scrubLimit is how fast the scrub reads.
	scrubLimit *rate.Limiter

	// binds keeps those apart who find out what a name means.
	binds sync.Mutex

	// condition is what is known of the bytes that are stored. Healing keeps those apart
	// who find damage.
	condition condition
	healing   sync.Mutex
	health    health
	counters  counters
	room      room
	doubtful  bool // the last process has not ended as it should have, or is not known

	// accounts keeps the entries of stored blobs in step with space.
	accounts sync.Mutex

	// contents keep who removes content from who links it, and repos who tidies the
	// entries of a repository up from who adds some. Of several of these locks, contents
	// is taken first, then naming, holds, tags, repos, lists, accounts.
	contents, repos stripes
	warned          seldom
	pulls           pulls
	uses            uses
	holds           holds
	pins            *pins
	collector       *collector
	// indexed is closed when the index covers all that is stored, which it has since
	// then, in Unix seconds.
	indexed chan struct{}
	since   int64

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu     sync.Mutex // guards the fields below
	closed bool
	fills  map[digest.Digest]*fill
	left   map[digest.Digest]*leftover // no fill works on them
	wg     sync.WaitGroup              // the running fills and flights
}

type manifestKey struct {
	repo string // as stored
	dgst digest.Digest
}

// What the memory for manifests may take: memManifests × memManifestSize bytes
// at the very most, and far less in practice (a usual manifest has 1 to 3 KB).
const (
	memManifests    = 256
	memManifestSize = 32 << 10
)

// New returns a cache over what opts.Blobs, opts.Refs and opts.Index hold,
// rebuilding the index where it is empty. It does not contact the remote. The
// caller closes it before its stores.
func New(ctx context.Context, options Options) (*Cache, error) {
	if options.Blobs == nil || options.Partials == nil || options.Refs == nil || options.Index == nil {
		return nil, errors.New("cache: Blobs, Partials, Refs and Index are required")
	}
	options = options.withDefaults()
	opts := options.fixed()
	owing := &owingIndex{Index: opts.Index}
	opts.Index = owing
	manifests, err := lru.New[manifestKey, Manifest](memManifests)
	if err != nil {
		return nil, err
	}
	decoded, err := lru.New[string, tagRecord](memManifests)
	if err != nil {
		return nil, err
	}
	warned, err := newSeldom()
	if err != nil {
		return nil, err
	}
	memory, err := lru.New[string, remembered](memorySize)
	if err != nil {
		return nil, err
	}
	recorded, err := lru.New[string, uint64](memorySize)
	if err != nil {
		return nil, err
	}
	peeks, err := lru.New[string, peeked](memorySize)
	if err != nil {
		return nil, err
	}
	bare, err := lru.New[string, time.Time](memorySize)
	if err != nil {
		return nil, err
	}
	condition, err := newCondition()
	if err != nil {
		return nil, err
	}
	c := &Cache{
		opts:      opts,
		owing:     owing,
		condition: condition,
		recorded:  recorded,
		peeked:    peeks,
		bare:      bare,
		log:       opts.Log,
		manifests: manifests,
		decoded:   decoded,
		memory:    memory,
		fills:     make(map[digest.Digest]*fill),
		left:      make(map[digest.Digest]*leftover),
		collector: newCollector(),
		warned:    warned,
		room:      room{tell: opts.Observer.RoomChanged},
		indexed:   make(chan struct{}),

		scrubLimit: limiter(options.ScrubRate),
	}
	c.counters.pinned.Store(-1)
	c.buffers.New = func() any {
		buf := make([]byte, streamBuffer)
		return &buf
	}
	c.space = &space{
		blobs: opts.Blobs, usage: opts.Usage, now: opts.Now,
		tight: func() { poke(c.collector.kick) }, known: make(chan struct{}),
	}
	if opts.Usage != nil {
		c.links = &countedRefs{Refs: opts.Refs, space: c.space}
		c.opts.Refs = c.links
	}
	next, err := c.plannedFor(options)
	if err != nil {
		return nil, err
	}
	if c.pins, err = loadPins(ctx, options.Pinned, options.Pins); err != nil {
		return nil, err
	}
	if c.pins.broken != nil {
		c.log.Error(c.pins.broken)
	}
	c.space.setLimits(options.MaxSize, options.MinFree)
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	c.show(next)
	if err := c.findLeft(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if err := c.openIndex(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	c.wg.Go(func() { c.watchLeft(&next.settings) })
	c.wg.Go(c.keepRoom)
	c.wg.Go(c.scrub)
	c.work(next)
	return c, nil
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		discard := logrus.New()
		discard.SetOutput(io.Discard)
		o.Log = discard
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Observer == nil {
		o.Observer = nobody{}
	}
	if o.MinFree == nil {
		o.MinFree = func(int64) int64 { return 0 }
	}
	o.BindingTTL = cmp.Or(o.BindingTTL, defaultBindingTTL)
	o.PartialTTL = cmp.Or(o.PartialTTL, 7*24*time.Hour)
	return o
}

// buffer returns a buffer of streamBuffer bytes.
func (c *Cache) buffer() *[]byte { return c.buffers.Get().(*[]byte) }

// recycle takes a buffer back.
func (c *Cache) recycle(buf *[]byte) { c.buffers.Put(buf) }

// Close ends the running downloads and requests and waits for them. Readers of
// blobs that are not complete get [ErrClosed].
func (c *Cache) Close() error {
	c.mu.Lock()
	again := c.closed
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
	if again {
		return nil
	}
	return c.closeIndex(context.Background())
}

// closeIndex notes in the index what is known only here.
func (c *Cache) closeIndex(ctx context.Context) error {
	select {
	case <-c.indexed:
	default:
		return nil // the next start goes on
	}
	c.tryFlushUses(ctx)
	used, contents := c.space.committed(), c.counters.contents.Load()
	err := c.owing.makeUp(ctx)
	if err == nil {
		err = c.opts.Index.Apply(ctx, put(key(kindMeta, metaClean), cleanRecord{&used, &contents}))
	}
	if errors.Is(err, syscall.ENOSPC) {
		c.log.WithError(err).Warn("the next start counts what is stored, since that could not be noted")
		return nil
	}
	return err
}

// absent tells whether err says that something is not stored.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) }
