package admin

import (
	"cmp"
	"context"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"registry-module/cache"
)

// MaxProblems is how many different problems are remembered.
const MaxProblems = 50

// problems are the last ones. The zero value has none.
type problems struct {
	mu  sync.Mutex
	all map[string]Problem // by what makes it the same
}

// fail keeps an error. What fails for the same reason again is the same problem, with the
// text of the last time.
func (p *problems) fail(err error) {
	if errors.Is(err, cache.ErrClosed) || errors.Is(err, context.Canceled) {
		return // the module stops, or nobody wants it any more
	}
	text, key := err.Error(), ""
	if u, ok := errors.AsType[*cache.UpstreamError](err); ok {
		text = u.Error() // what is around it names one request of many
		key = u.Remote + "|" + u.Kind.Error() + "|" + strconv.Itoa(u.Status)
		// What a registry says of what it does not give repeats its name, and anybody can ask
		// for many.
		if u.Err != nil && !errors.Is(u.Kind, cache.ErrNotFound) && !errors.Is(u.Kind, cache.ErrDenied) {
			key += "|" + varying.ReplaceAllString(cleanText(u.Err.Error()), "#")
		}
	}
	p.add(time.Now(), key, text, hintOf(err))
}

// varying is what differs from one failure to the next: digests, ports, times.
var varying = regexp.MustCompile(`[0-9a-f]{8,}|[0-9]+`)

// add keeps a problem; the key is what makes two of them the same, by default the text.
func (p *problems) add(now time.Time, key, text, hint string) {
	text, hint = cleanText(text), cleanText(hint)
	key = cmp.Or(key, varying.ReplaceAllString(text, "#"))
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil {
		p.all = make(map[string]Problem, MaxProblems)
	}
	problem, ok := p.all[key]
	if !ok {
		problem.First = now
		if len(p.all) == MaxProblems {
			oldest := ""
			for k, other := range p.all {
				if oldest == "" || other.At.Before(p.all[oldest].At) {
					oldest = k
				}
			}
			delete(p.all, oldest)
		}
	}
	problem.At, problem.Text, problem.Hint = now, text, hint
	problem.Times++
	p.all[key] = problem
}

// list is all of them, the newest first.
func (p *problems) list() []Problem {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]Problem, 0, len(p.all))
	for _, problem := range p.all {
		all = append(all, problem)
	}
	slices.SortFunc(all, func(a, b Problem) int {
		return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.Text, b.Text))
	})
	return all
}
