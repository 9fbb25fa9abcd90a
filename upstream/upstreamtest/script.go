package upstreamtest

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
)

// Fault is something that the registry does instead of, or while, answering
// properly. The first group of fields says to which requests; an empty field
// fits all. The others say what; what is not set stays as it would be.
type Fault struct {
	// Kinds are the kinds of request that are meant.
	Kinds []Kind
	// Repo and Ref, a tag or a digest, narrow them further.
	Repo, Ref string
	// Match narrows them in any other way, where it is not nil.
	Match func(Request) bool
	// Skip is how many of the requests that fit are first left alone.
	Skip int
	// Times is how many of them are then treated; 0 is all.
	Times int

	// Delay is waited for before the answer begins.
	Delay time.Duration
	// Hang gives no answer at all until the client leaves or the registry is
	// closed.
	Hang bool
	// Drop closes the connection instead of answering.
	Drop bool
	// Status answers with this status and, unless Body is set, with an OCI
	// error body for statuses from 400 on.
	Status int
	// Body is sent in place of the content. A Body that is not nil but empty is
	// an empty answer. Headers that describe the content stay as they were,
	// except for Content-Length.
	Body []byte
	// Header is set on the answer. A name with no values is removed from it.
	Header http.Header
	// Chunked sends no Content-Length.
	Chunked bool

	// ETag is that of the content, which by default is a strong one made of the
	// digest: what If-Range has to be for a part to be sent, and If-None-Match for a
	// manifest not to be. An ETag in Header is
	// only shown.
	ETag string
	// IgnoreIfRange sends the part that was asked for whatever If-Range says.
	IgnoreIfRange bool
	// IgnoreIfNoneMatch sends a manifest whatever If-None-Match says.
	IgnoreIfNoneMatch bool
	// IgnoreRange answers a request for a part with the whole.
	IgnoreRange bool
	// RangeShift answers with a part that lies so many bytes behind the one that
	// was asked for, or before it where it is negative.
	RangeShift int64
	// RangeMax, if not 0, is how many bytes of the part that was asked for are
	// sent at most.
	RangeMax int64
	// RangeSize, if not 0, is the size of the whole that Content-Range says.
	RangeSize int64

	// Rate bounds this answer's body, in bytes per second.
	Rate int64
	// Gate holds the answer before the byte GateAt of its body, and its headers
	// with it where GateAt is 0.
	Gate   *Gate
	GateAt int64
	// Cut closes the connection after CutAt bytes of the body.
	Cut   bool
	CutAt int64
	// CutMax, if not 0, closes each connection when it has carried some number
	// of bytes of bodies under this fault, drawn for each from CutMin to CutMax.
	// CutSeed chooses the sequence of these numbers. Of a [NewHandler], which
	// knows no connections, each answer counts as one.
	CutMin, CutMax int64
	CutSeed        uint64
	// Corrupt alters the byte CorruptAt of the body.
	Corrupt   bool
	CorruptAt int64
}

// HTMLPage is what a captive portal answers to everything: 200 and a page.
func HTMLPage(kinds ...Kind) Fault {
	return Fault{
		Kinds:  kinds,
		Status: http.StatusOK,
		Header: http.Header{"Content-Type": {"text/html; charset=utf-8"}, "Docker-Content-Digest": nil},
		Body:   []byte("<!DOCTYPE html><html><body>Please log in to the guest network.</body></html>\n"),
	}
}

// Gate holds answers until it is opened.
type Gate struct {
	reached chan struct{}
	opened  chan struct{}
	first   onceClose
	open    onceClose
}

// NewGate returns a gate that is shut.
func NewGate() *Gate {
	return &Gate{reached: make(chan struct{}), opened: make(chan struct{})}
}

// Reached is closed when the first answer is held. All bytes before the gate
// have been sent then.
func (g *Gate) Reached() <-chan struct{} { return g.reached }

// Open lets all answers pass that are held and that come later. It may be
// called more than once.
func (g *Gate) Open() { g.open.close(g.opened) }

// wait holds the caller until the gate is open, and ends its answer where stop
// or cancel is closed before.
func (g *Gate) wait(stop, cancel <-chan struct{}) {
	g.first.close(g.reached)
	select {
	case <-g.opened:
	case <-stop:
		panic(http.ErrAbortHandler)
	case <-cancel:
		panic(http.ErrAbortHandler)
	}
}

// activeFault is a fault with what is left of its counts.
type activeFault struct {
	Fault
	skip, times int
	cuts        *rand.Rand
}

// Script adds f to what the registry does. Of the faults that fit a request,
// the one that was added last is taken. The returned function ends it.
func (r *Registry) Script(f Fault) (end func()) {
	a := &activeFault{Fault: f, skip: f.Skip, times: f.Times, cuts: rand.New(rand.NewPCG(f.CutSeed, 0))}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, a)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.remove(a)
	}
}

// Heal ends all faults.
func (r *Registry) Heal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = nil
}

// fault takes the fault for req, the zero Fault where there is none, and draws
// the number of bytes from CutMin to CutMax.
func (r *Registry) fault(req Request) (f Fault, cut int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range slices.Backward(r.faults) {
		if !a.fits(req) {
			continue
		}
		if a.skip > 0 {
			a.skip--
			continue
		}
		if a.Times > 0 {
			a.times--
			if a.times == 0 {
				r.remove(a)
			}
		}
		return a.Fault, a.CutMin + a.cuts.Int64N(max(a.CutMax-a.CutMin, 0)+1)
	}
	return Fault{}, 0
}

// remove ends a. The caller holds r.mu. The slice is copied, for fault may be
// walking over it.
func (r *Registry) remove(a *activeFault) {
	r.faults = slices.DeleteFunc(slices.Clone(r.faults), func(b *activeFault) bool { return a == b })
}

func (a *activeFault) fits(req Request) bool {
	return (len(a.Kinds) == 0 || slices.Contains(a.Kinds, req.Kind)) &&
		(a.Repo == "" || a.Repo == req.Repo) &&
		(a.Ref == "" || a.Ref == req.Ref) &&
		(a.Match == nil || a.Match(req))
}
