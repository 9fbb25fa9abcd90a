package cache

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"registry-module/internal/extents"
)

// Blobs keeps content by digest. It stores and returns bytes as they are:
// verification is the cache's.
type Blobs interface {
	// Open returns the stored content of dgst. A digest that is not stored is
	// [io/fs.ErrNotExist].
	Open(ctx context.Context, dgst digest.Digest) (Blob, error)

	// Create starts a new draft for the content of dgst. Drafts are not
	// visible to Open, and gone with the process.
	Create(ctx context.Context, dgst digest.Digest) (Draft, error)

	// Remove deletes the content of dgst. Removing what is not stored is no
	// error. Blobs that are open stay readable.
	Remove(ctx context.Context, dgst digest.Digest) error

	// All yields all stored content, in no order. What cannot be read is yielded
	// with its error, without a digest where it is not known whose it is, and
	// does not end the iteration; the end of ctx does, with its error. Content
	// that is committed or removed meanwhile may be missed.
	All(ctx context.Context) iter.Seq2[BlobEntry, error]

	// Free returns how many bytes can still be written, as an unprivileged
	// writer sees it, and how many the storage has in all.
	Free(ctx context.Context) (free, total int64, err error)
}

// BlobEntry is stored content with its length in bytes.
type BlobEntry struct {
	Digest digest.Digest
	Size   int64
}

// Blob is open content. One that is backed by a file may have a method
// Raw() io.Reader that gives the file itself at the same position, so that the
// kernel can send it to a socket. So may the readers of a [Draft].
//
// It may also have a method Identity() any, whose comparable result is another one when
// the content was replaced, or written to, since. And one Forget(off, n int64), by which
// it is told that so many bytes from off on will not be read again soon.
type Blob interface {
	io.ReadSeekCloser
	// ReadAt neither moves nor needs the position.
	io.ReaderAt
	// Size is the length of the content in bytes.
	Size() int64
}

// Draft is content that is being written. Its methods may be called by several
// goroutines at a time, those that end it (Commit, Discard, [Partial].Suspend) by
// one, when nobody writes any more.
type Draft interface {
	// WriteAt writes to a place that nobody else writes to. Bytes are readable
	// through Open as soon as WriteAt returns.
	io.WriterAt

	// Open returns an independent reader of what is being written, positioned
	// at the start. It stays usable when the draft has ended. What was not
	// written yet reads as zeros, or as io.EOF behind the last byte that was;
	// later writes can still be read.
	Open(ctx context.Context) (io.ReadSeekCloser, error)

	// Commit makes the draft durable and then visible under its digest. When
	// it returns nil, the content survives a loss of power. After an error the
	// content is either absent or whole.
	Commit(ctx context.Context) error

	// Discard gives the draft's space back. After Commit, and after Suspend, it
	// does nothing.
	Discard() error
}

// PartSize is the grain in bytes in which a [Partial] remembers what it holds:
// bytes that are written in order from a multiple of PartSize on can be found
// again, others may be lost.
const PartSize = 256 << 10

// Partials keeps the content of downloads that are not complete from one process
// to the next.
type Partials interface {
	// Resume takes up what is kept of dgst, or starts anew where nothing is, or
	// nothing that is intact. There must be no other Partial of dgst that has
	// not ended.
	Resume(ctx context.Context, dgst digest.Digest) (Partial, error)

	// All yields what is kept, in no order, but for what was resumed and has
	// not ended. What cannot be read is yielded with its error and does not end
	// the iteration.
	All(ctx context.Context) iter.Seq2[PartialEntry, error]

	// Remove deletes what is kept of dgst. Removing what is not there is no
	// error.
	Remove(ctx context.Context, dgst digest.Digest) error
}

// PartialEntry describes kept content.
type PartialEntry struct {
	Digest digest.Digest
	// Size is how many bytes are kept.
	Size int64
	// Used is when it was last written to.
	Used time.Time
	// Note is what was last given to [Partial.Keep].
	Note []byte
}

// Partial is a [Draft] that can outlive the process. It is not kept before Keep
// was called.
type Partial interface {
	Draft

	// Held returns which bytes are there from an earlier process, as they were
	// written: in order, without overlap. It does not change.
	Held() []extents.Span

	// Note returns what an earlier process has last given to Keep; nil where
	// there is none.
	Note() []byte

	// Keep makes the draft one that is kept, with a note that Note and All
	// return later. What is written from then on is found by Resume after this
	// process has ended, in whatever way.
	Keep(note []byte) error

	// Sync makes what was written so far, and is kept, survive a loss of power.
	Sync(ctx context.Context) error

	// Suspend ends the draft and leaves what it holds to a later Resume. It
	// returns how many bytes those are; 0 where it is not kept, or has nothing
	// to go on from, and is discarded.
	Suspend() (kept int64, err error)
}

// Usage tells what content takes of the storage. Sizes of content are those of its
// bytes; what it takes is more: whole blocks, directories, links.
type Usage interface {
	// Occupies returns how many bytes of storage content of size bytes takes, with its
	// place.
	Occupies(size int64) int64

	// OccupiesRef returns how many bytes of storage a reference takes at most, with its
	// place and, of a manifest, that of its repository.
	OccupiesRef(kind RefKind) int64

	// Beside returns how many bytes of storage is taken by what is neither content nor
	// a partial: the index, and what was put into quarantine.
	Beside(ctx context.Context) (int64, error)
}

// Quarantine keeps damaged content for who wants to know what has happened to it.
type Quarantine interface {
	// Quarantine takes the content of dgst out of its place, so that it is not stored
	// any more, and keeps it aside for a while, if there is room. Content that is not
	// stored is no error. Blobs that are open stay readable.
	Quarantine(ctx context.Context, dgst digest.Digest) error
}

// Strays may be implemented by [Blobs].
type Strays interface {
	// Strays yields the files that are in the way of nothing and of use to nobody. What
	// cannot be read is yielded with its error and does not end the iteration.
	Strays(ctx context.Context) iter.Seq2[Stray, error]
}

// Stray is a file that does not belong where it is.
type Stray struct {
	Path string
	Size int64 // in bytes
	What string
}

// Document is a small file that is kept durably, for what the operator has decided.
type Document interface {
	// Read returns what was last written. Where nothing ever was, the error is
	// [io/fs.ErrNotExist].
	Read(ctx context.Context) ([]byte, error)
	// Write replaces the content as a whole. When it returns nil, it survives a loss
	// of power.
	Write(ctx context.Context, content []byte) error
}

// RefKind says what a [Ref] names.
type RefKind uint8

// The kinds of reference that the distribution storage layout knows.
const (
	// RefLayer links a blob into a repository; Ref.Name is the blob's digest.
	RefLayer RefKind = iota + 1
	// RefManifest links a manifest into a repository; Ref.Name is its digest.
	RefManifest
	// RefTag points a tag of a repository at a manifest; Ref.Name is the tag.
	RefTag
)

// Ref names one reference of a repository.
type Ref struct {
	Repo string
	Kind RefKind
	Name string
}

// Refs keeps the references from repositories to content. It is the durable
// truth that the index is rebuilt from.
type Refs interface {
	// Get returns where ref points to. A reference that is not there, or is
	// damaged, is [io/fs.ErrNotExist].
	Get(ctx context.Context, ref Ref) (digest.Digest, error)

	// Put points ref at dgst, durably. The content must have been committed.
	Put(ctx context.Context, ref Ref, dgst digest.Digest) error

	// Remove deletes ref. Removing what is not there is no error.
	Remove(ctx context.Context, ref Ref) error

	// All yields all references, in no order. An unreadable one is yielded
	// with its error and does not end the iteration.
	All(ctx context.Context) iter.Seq2[RefEntry, error]
}

// RefEntry is a reference with where it points to.
type RefEntry struct {
	Ref
	Digest digest.Digest
}

// Index is a fast, ordered map for what would be slow to find out from
// [Refs] and [Blobs]. It may lose entries, or all of them: the cache rebuilds
// it. Keys and values must not be modified or kept by either side. After it was
// closed, its methods return [io/fs.ErrClosed].
type Index interface {
	// Get returns the value of key, or [io/fs.ErrNotExist].
	Get(ctx context.Context, key []byte) ([]byte, error)

	// Apply makes all changes visible at once or none. They become durable
	// some time later.
	Apply(ctx context.Context, changes ...Change) error

	// Scan yields the entries whose key begins with prefix and is not less
	// than from, in key order. Those that are changed meanwhile are yielded as they
	// were, or as they are. Key and Value are the consumer's until the next one.
	Scan(ctx context.Context, prefix, from []byte) iter.Seq2[Entry, error]
}

// Change is one change of an [Index]: Value is stored under Key, or Key is
// deleted where Delete is set.
type Change struct {
	Key, Value []byte
	Delete     bool
}

// Entry is one entry of an [Index].
type Entry struct {
	Key, Value []byte
}

// Upstream is a remote registry. Repo is the name of a repository as the
// remote knows it. Errors are or wrap the sentinels of this package
// ([ErrNotFound], [ErrDenied], [ErrRateLimited], [ErrUnavailable],
// [ErrInvalid]), as an [*UpstreamError] where the remote's answer is known.
type Upstream interface {
	// Host identifies the remote, for example "registry-1.docker.io". It is
	// constant.
	Host() string

	// Manifest fetches the manifest that ref, a tag or a digest, stands for.
	// Bytes and media type are the remote's own; Digest is the remote's claim
	// (empty where it made none), which the caller has to verify. Age and Stale
	// are of the answer, and not of the manifest.
	Manifest(ctx context.Context, repo, ref string) (Manifest, error)

	// Resolve asks what ref stands for without fetching it (HEAD). Digest is
	// empty and Size -1 where the remote does not say. Known, unless empty, is what
	// ref has stood for: the remote may answer that it still does. Where it does not
	// say what ref stands for, and known is given, Digest may be that of the bytes
	// that ref stands for: they had to be fetched for it, and are not kept.
	Resolve(ctx context.Context, repo, ref string, known digest.Digest) (Descriptor, error)

	// Blob opens the content of dgst, or the part of it that is asked for. A
	// remote may give the whole instead.
	Blob(ctx context.Context, repo string, dgst digest.Digest, part BlobPart) (*BlobStream, error)

	// StatBlob asks whether the remote serves dgst in repo to us, and returns
	// its size in bytes, or -1 where the remote does not say.
	StatBlob(ctx context.Context, repo string, dgst digest.Digest) (int64, error)

	// Tags lists tags of repo: at most n (all that the remote gives in one
	// answer where n <= 0) that come after last, in the remote's order.
	// More tells that there are others.
	Tags(ctx context.Context, repo string, n int, last string) (tags []string, more bool, err error)

	// Referrers lists the manifests in repo whose subject is dgst, all of them, in
	// the remote's order: by the API for that, or by the referrers tag schema where
	// the remote has none. Nothing refers to what does not exist. See the OCI
	// distribution specification, "Listing Referrers".
	Referrers(ctx context.Context, repo string, dgst digest.Digest) ([]v1.Descriptor, error)
}

// Availability is what an [Upstream] may tell beside its answers.
type Availability interface {
	// Away returns why no answer of the remote is to be waited for by who has a
	// stored one: it has failed, or has not answered for a while. It is nil where the
	// remote can be expected to answer. Due tells that it is time to find out whether
	// that is still so, by a request that nobody waits for. It takes no time.
	Away() (why error, due bool)
	// Why is Away for who only wants to know: it takes no turn of those who find out.
	Why() error
}

// BlobPart is a part of a blob. The zero value is the whole.
type BlobPart struct {
	// Offset is the position of the first byte.
	Offset int64
	// Length is the number of bytes; 0 is all up to the end.
	Length int64
	// Validator is that of an earlier [BlobStream]: where the remote has other
	// content by now, the whole is to be sent instead of the part. Empty asks for
	// the part in any case.
	Validator string
}

// BlobStream is a blob on its way from a remote. The caller closes Body.
type BlobStream struct {
	Body io.ReadCloser
	// Offset is the position of Body's first byte within the blob. It is 0
	// where the remote has ignored the part that was asked for, and given the
	// whole.
	Offset int64
	// Length is how many bytes Body has, or -1 where the remote does not say. It
	// may be less than was asked for.
	Length int64
	// Size is the length of the whole blob in bytes, or -1 where the remote
	// does not say.
	Size int64
	// Part tells that the remote has given a part on purpose, and so can give
	// others.
	Part bool
	// Validator stands for the remote's copy of the content, see [BlobPart];
	// empty where the remote gave none.
	Validator string
}

// Descriptor describes content without its bytes.
type Descriptor struct {
	MediaType string
	Digest    digest.Digest
	// Size is in bytes.
	Size int64
	// Age is, of what a tag stands for, how long ago the remote has had that confirmed
	// itself: 0 where it is the origin, or does not say. See RFC 9111, section 5.1.
	Age time.Duration
	// Stale is, of what a tag stands for, that the remote says it could not have that
	// confirmed: its answer is one of Age ago.
	Stale bool
}

// Manifest is a manifest as it was pushed: its exact bytes and the media type
// that the remote gave it.
type Manifest struct {
	Descriptor
	// Bytes are at most [MaxManifestSize]. They are shared: do not modify.
	Bytes []byte
}

// MaxManifestSize is the length in bytes up to which a manifest is accepted.
// The OCI distribution specification asks registries to take at least 4 MiB.
const MaxManifestSize = 4 << 20
