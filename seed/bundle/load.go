package bundle

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
)

// ErrMissing is the error for a bundle that leaves out what is not there: see
// [MissingError]. ErrPartly is that for one of which not all images could be loaded.
var (
	ErrMissing = errors.New("the bundle leaves out what is not stored here")
	ErrPartly  = errors.New("not all images of the bundle were loaded")
)

// MissingError says what a bundle leaves out and is not stored. It is [ErrMissing].
type MissingError struct {
	Contents []Content
	// Images are those that need it.
	Images []string
}

// Error implements error.
func (e *MissingError) Error() string {
	return fmt.Sprintf("%v: %s, which %s need: make the bundle with the list of what is stored here now (ls -o have), or without --have",
		ErrMissing, few(e.Contents, func(c Content) string { return c.Digest.String() }), few(e.Images, func(s string) string { return s }))
}

// Unwrap returns [ErrMissing].
func (e *MissingError) Unwrap() error { return ErrMissing }

// mostReasons is how much of a list is printed.
const mostReasons = 5

// few prints some of a list.
func few[T any](list []T, print func(T) string) string {
	var s []string
	for i, e := range list {
		if i == mostReasons {
			s = append(s, fmt.Sprintf("and %d more", len(list)-mostReasons))
			break
		}
		s = append(s, print(e))
	}
	return strings.Join(s, ", ")
}

// LoadOptions are options of [Load]. The zero value works.
type LoadOptions struct {
	// TrustKeys are the keys with one of which the bundle must be signed; with none it
	// need not be.
	TrustKeys []ed25519.PublicKey
	// NoPin does not pin the images.
	NoPin bool
	// Progress is told how far it is, as in [WriteOptions]. Nil for nobody.
	Progress func(Progress)
}

// Load stores what of a bundle is not stored, and adds each image as soon as all of it is
// there. What is stored already is not stored again: so it may be run again after it was
// interrupted.
//
// Nothing is changed where the bundle is not signed as it has to be, or leaves out what is
// not there (a [*MissingError]). An image of which content is lost is not added; the others
// are, and the error is [ErrPartly], with the reasons. Where content cannot be stored,
// loading ends with the sink's error. The receipt says in each case what is there.
func Load(ctx context.Context, sink Sink, b *Bundle, o LoadOptions) (Receipt, error) {
	nothing := Receipt{Version: Version, Contents: []Content{}, Images: []LoadedImage{}}
	if len(o.TrustKeys) > 0 {
		if err := b.Trust(o.TrustKeys); err != nil {
			return nothing, err
		}
	}
	l := &loading{sink: sink, b: b, o: o}
	if err := l.look(ctx); err != nil {
		return nothing, err
	}
	if err := l.absent(); err != nil {
		return l.receipt(), err
	}
	if err := sink.Begin(ctx, b.d.Images, b.d.Contents); err != nil {
		return l.receipt(), fmt.Errorf("loading the bundle: %w", err)
	}
	defer sink.End()
	// Until now nothing has kept what is there from being removed.
	if err := l.look(ctx); err != nil {
		return l.receipt(), err
	}
	if err := l.absent(); err != nil {
		return l.receipt(), err
	}
	err := l.run(ctx)
	return l.receipt(), err
}

// look finds out what is missing.
func (l *loading) look(ctx context.Context) error {
	missing, err := l.sink.Missing(ctx, l.b.d.Contents)
	if err != nil {
		return fmt.Errorf("looking for what is stored: %w", err)
	}
	l.missing = make(map[digest.Digest]error, len(missing))
	for _, c := range missing {
		l.missing[c.Digest] = errNotSeen
	}
	return nil
}

var errNotSeen = errors.New("it was not in the bundle, whose description has it")

// loading is one call of [Load].
type loading struct {
	sink Sink
	b    *Bundle
	o    LoadOptions
	// missing is what is not stored, with what is known of the reason.
	missing map[digest.Digest]error
	// waiting has for what is missing the images that need it, and needs how much each
	// of them still does.
	waiting map[digest.Digest][]int
	needs   []int
	loaded  []LoadedImage
	failed  []FailedImage
	errs    []error // of the first that have failed
	m       *meter
}

// absent returns an error where something is missing that the bundle leaves out.
func (l *loading) absent() error {
	lacks := &MissingError{}
	gone := make(map[digest.Digest]struct{})
	for _, c := range l.b.d.Contents {
		if _, missing := l.missing[c.Digest]; c.Absent && missing {
			lacks.Contents = append(lacks.Contents, Content{Digest: c.Digest, Size: c.Size})
			gone[c.Digest] = struct{}{}
		}
	}
	if len(gone) == 0 {
		return nil
	}
	for _, i := range l.b.d.Images {
		if i.lacks(gone) {
			lacks.Images = append(lacks.Images, i.Reference())
		}
	}
	return lacks
}

func (l *loading) run(ctx context.Context) error {
	l.prepare()
	for _, n := range l.order() {
		if l.needs[n] == 0 {
			if err := l.add(ctx, n); err != nil {
				return err
			}
		}
	}
	// Asked for even where nothing is missing: a stream has to be read to its end by
	// somebody, or who sends it does not know what has become of it.
	want := func(c Content) bool { _, missing := l.missing[c.Digest]; return missing }
	var broken error
	for blob, err := range l.b.Blobs(ctx, want) {
		if ctx.Err() != nil {
			return fmt.Errorf("loading the bundle: %w", context.Cause(ctx))
		}
		if blob.Content.Digest == "" { // nothing follows
			broken = err
			continue
		}
		if err == nil {
			err = l.store(ctx, blob)
		}
		if lost := (*LostError)(nil); err != nil && !errors.As(err, &lost) {
			return fmt.Errorf("storing %s: %w", blob.Content.Digest, err)
		}
		if err != nil {
			l.missing[blob.Content.Digest] = err
			continue
		}
		if err := l.stored(ctx, blob.Content); err != nil {
			return err
		}
	}
	return l.rest(broken)
}

// prepare counts what each image needs.
func (l *loading) prepare() {
	l.waiting = make(map[digest.Digest][]int)
	l.needs = make([]int, len(l.b.d.Images))
	for n, i := range l.b.d.Images {
		for _, dgst := range i.all() {
			if _, missing := l.missing[dgst]; missing {
				l.waiting[dgst] = append(l.waiting[dgst], n)
				l.needs[n]++
			}
		}
	}
	var come []Content
	for _, c := range l.b.d.Contents {
		if _, missing := l.missing[c.Digest]; missing {
			come = append(come, c)
		}
	}
	l.m = newMeter(l.o.Progress, come)
	l.m.p.TotalImages = len(l.b.d.Images)
	l.m.report()
}

// order is the order in which images are added: those that are attached to others first.
func (l *loading) order() []int {
	order := make([]int, 0, len(l.b.d.Images))
	for _, attached := range []bool{true, false} {
		for n, i := range l.b.d.Images {
			if i.Attached == attached {
				order = append(order, n)
			}
		}
	}
	return order
}

// store stores one content. The error is a [*LostError] where the bundle is to blame.
func (l *loading) store(ctx context.Context, blob Blob) error {
	before := l.m.p.Bytes
	seen := &watched{r: &passing{ctx: ctx, r: blob, m: l.m}}
	err := l.sink.Store(ctx, blob.Content, seen)
	if seen.err != nil {
		err = seen.err // whatever the sink has made of it
	}
	if err != nil {
		return err
	}
	l.m.p.Bytes = before + blob.Content.Size // the sink may have had it meanwhile
	l.m.done()
	return nil
}

// watched remembers with what error reading has ended.
type watched struct {
	r   io.Reader
	err error
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		w.err = err
	}
	return n, err
}

// stored takes note of c, and adds the images that are complete with it.
func (l *loading) stored(ctx context.Context, c Content) error {
	delete(l.missing, c.Digest)
	for _, n := range l.waiting[c.Digest] {
		if l.needs[n]--; l.needs[n] > 0 {
			continue
		}
		if err := l.add(ctx, n); err != nil {
			return err
		}
	}
	delete(l.waiting, c.Digest)
	return nil
}

// add adds an image. Only where the context has ended that is an error here.
func (l *loading) add(ctx context.Context, n int) error {
	i := l.b.d.Images[n]
	err := l.sink.Add(ctx, i, !l.o.NoPin)
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("loading the bundle: %w", context.Cause(ctx))
	case err != nil:
		l.fail(i, err)
	default:
		l.loaded = append(l.loaded, LoadedImage{Image: i.Reference(), Digest: i.Digest, Pinned: !l.o.NoPin})
		l.m.p.Images++
	}
	l.m.report()
	return nil
}

func (l *loading) fail(i Image, err error) {
	l.failed = append(l.failed, FailedImage{Image: i.Reference(), Digest: i.Digest, Error: err.Error()})
	if len(l.errs) < mostErrors {
		l.errs = append(l.errs, fmt.Errorf("%s: %w", i.Reference(), err))
	}
}

// mostErrors is how many images have their reasons in an error: there may be many, and the
// receipt has all.
const mostErrors = 20

// rest makes the error for what could not be loaded. Broken is why nothing more came.
func (l *loading) rest(broken error) error {
	for n, i := range l.b.d.Images {
		if l.needs[n] == 0 {
			continue
		}
		var why []error
		more := 0
		for _, dgst := range i.all() {
			err, missing := l.missing[dgst]
			switch {
			case !missing:
			case len(why) == mostReasons:
				more++
			case errors.Is(err, errNotSeen) && broken != nil:
				why = append(why, fmt.Errorf("%s did not come", dgst))
			case errors.Is(err, errNotSeen):
				why = append(why, fmt.Errorf("%s: %w", dgst, err))
			default:
				why = append(why, err)
			}
		}
		text := few(why, error.Error)
		if more > 0 {
			text += fmt.Sprintf(", and %d more", more)
		}
		l.fail(i, errors.New(text))
	}
	if len(l.errs) == 0 {
		return nil // whatever is wrong with what is not needed
	}
	if more := len(l.failed) - len(l.errs); more > 0 {
		l.errs = append(l.errs, fmt.Errorf("and %d more, which the receipt has", more))
	}
	return fmt.Errorf("%w: %d of %d are not: %w", ErrPartly, len(l.failed), len(l.b.d.Images), errors.Join(append(l.errs, broken)...))
}

// receipt says what is there.
func (l *loading) receipt() Receipt {
	r := Receipt{Version: Version, Images: l.loaded, Failed: l.failed, Contents: []Content{}}
	if r.Images == nil {
		r.Images = []LoadedImage{}
	}
	for _, c := range l.b.d.Contents {
		if _, missing := l.missing[c.Digest]; missing {
			r.Missing = append(r.Missing, c)
		} else {
			r.Contents = append(r.Contents, c)
		}
	}
	r.Contents, r.Missing = sorted(r.Contents), sorted(r.Missing)
	return r
}
