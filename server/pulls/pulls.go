package pulls

import (
	"cmp"
	"container/list"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"registry-module/server"
)

const (
	// DefaultIdle is how long nothing has come when a pull is over.
	DefaultIdle = 5 * time.Second
	// DefaultMax is how many pulls are open at the same time.
	DefaultMax = 1000
)

// Options are what [New] needs. The zero value works.
type Options struct {
	// Log gets a line for each pull; default nothing.
	Log logrus.FieldLogger
	// Idle is how long after its last request a pull is over; default [DefaultIdle].
	Idle time.Duration
	// Max is how many pulls are open at most: the one that was idle for longest is taken
	// for over where there are more. Default [DefaultMax].
	Max int
	// Now tells the time; default [time.Now].
	Now func() time.Time
}

// Pulls is a [server.Observer] and [server.Beginner]. Create it with [New]; Close reports
// what is open.
type Pulls struct {
	opts Options

	mu      sync.Mutex
	closed  bool
	callers map[caller]*calls
	latest  *calls // one of callers, or nil: who asks mostly asks again
	// open are all pulls, the one whose last request has ended first in front.
	open  list.List
	timer *time.Timer // nil while it does not run
}

// caller is who asks for a repository, as far as that is known before he says who he is.
type caller struct{ client, agent, name string }

// calls are what a caller does. It is there while he does something.
type calls struct {
	caller
	underWay int
	pulls    []*pull // one for each user
}

var (
	_ server.Observer = (*Pulls)(nil)
	_ server.Beginner = (*Pulls)(nil)
	_ io.Closer       = (*Pulls)(nil)
)

// New returns one that knows of no pull.
func New(opts Options) *Pulls {
	if opts.Log == nil {
		discard := logrus.New()
		discard.SetOutput(io.Discard)
		opts.Log = discard
	}
	opts.Idle = cmp.Or(opts.Idle, DefaultIdle)
	opts.Max = max(cmp.Or(opts.Max, DefaultMax), 1)
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Pulls{opts: opts, callers: make(map[caller]*calls)}
}

// callerOf is who has sent the request.
func callerOf(a server.Answer) caller {
	return caller{cut(a.Client), cut(a.Agent), cut(a.Name)}
}

// isPart tells whether the request can be part of a pull.
func isPart(a server.Answer) bool {
	return (a.Kind == server.ManifestContent || a.Kind == server.BlobContent) && (a.Method == "GET" || a.Method == "HEAD")
}

// Began implements [server.Beginner]: a pull is not over while one of its blobs is under
// way.
func (p *Pulls) Began(a server.Answer) {
	if !isPart(a) {
		return
	}
	by := callerOf(a)
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.find(by)
	if c == nil {
		c = &calls{caller: by.clone()} // the request is not to be kept for its sake
		p.callers[c.caller] = c
	}
	c.underWay++
}

// Answered implements [server.Observer].
func (p *Pulls) Answered(a server.Answer) {
	if !isPart(a) {
		return
	}
	p.mu.Lock()
	lines := p.answered(a)
	p.mu.Unlock()
	p.write(lines)
}

// answered counts a request, and returns the pulls that are over by that.
func (p *Pulls) answered(a server.Answer) (over []*pull) {
	c := p.find(callerOf(a))
	if c == nil {
		return nil // Began was not told of it
	}
	c.underWay--
	defer func() {
		if p.leave(c); c.underWay == 0 && len(c.pulls) > 0 {
			p.runTimer(p.opts.Idle)
		}
	}()
	// A refusal is no part of a pull: clients are refused first, and then log in.
	if p.closed || a.Result == server.Refused {
		return nil
	}
	user := cut(a.User)
	i := slices.IndexFunc(c.pulls, func(x *pull) bool { return x.user == user })
	if i >= 0 && c.underWay == 0 && c.pulls[i].isOther(a) {
		over = append(over, p.end(c.pulls[i]))
		i = -1
	}
	if i < 0 {
		if !opens(a) {
			return over
		}
		x := newPull(c, user, a)
		x.at = p.open.PushBack(x)
		c.pulls = append(c.pulls, x)
		p.callers[c.caller] = c // the end of another one may have removed it
		for p.open.Len() > p.opts.Max {
			over = append(over, p.end(p.open.Front().Value.(*pull)))
		}
		i = len(c.pulls) - 1
	}
	x := c.pulls[i]
	x.add(a)
	p.open.MoveToBack(x.at)
	return over
}

// find returns what a caller does, nil for nothing.
func (p *Pulls) find(by caller) *calls {
	if p.latest == nil || p.latest.caller != by {
		p.latest = p.callers[by]
	}
	return p.latest
}

// end takes a pull for over.
func (p *Pulls) end(x *pull) *pull {
	p.open.Remove(x.at)
	x.by.pulls = slices.DeleteFunc(x.by.pulls, func(other *pull) bool { return other == x })
	p.leave(x.by)
	return x
}

// leave forgets who does nothing.
func (p *Pulls) leave(c *calls) {
	if c.underWay == 0 && len(c.pulls) == 0 {
		delete(p.callers, c.caller)
		p.latest = nil
	}
}

// runTimer has it looked what is over after d, if that is not going to happen.
func (p *Pulls) runTimer(d time.Duration) {
	if p.timer == nil && !p.closed {
		p.timer = time.AfterFunc(d, p.look)
	}
}

// look reports what is over, and comes back for the rest.
func (p *Pulls) look() {
	p.mu.Lock()
	p.timer = nil
	now := p.opts.Now()
	var over []*pull
	var next *list.Element
	for e := p.open.Front(); e != nil; e = next {
		next = e.Next()
		x := e.Value.(*pull)
		if x.by.underWay > 0 {
			continue // the end of what is under way comes back to it
		}
		if left := p.opts.Idle - now.Sub(x.last); left > 0 {
			p.runTimer(left)
			break
		}
		over = append(over, p.end(x))
	}
	p.mu.Unlock()
	p.write(over)
}

// Close reports what is open, and nothing more after that. It never fails.
func (p *Pulls) Close() error {
	p.mu.Lock()
	p.closed = true
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	var over []*pull
	for p.open.Len() > 0 {
		over = append(over, p.end(p.open.Front().Value.(*pull)))
	}
	p.mu.Unlock()
	p.write(over)
	return nil
}

// write writes a line for each.
func (p *Pulls) write(over []*pull) {
	for _, x := range over {
		x.write(p.opts.Log)
	}
}
