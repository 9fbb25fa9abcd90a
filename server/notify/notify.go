// Package notify tells the operator's webhooks what happens in a cache: what was evicted,
// how the state of a remote has changed, and whether there is room.
//
// They are those of the stock configuration (notifications.endpoints), which the embedded
// distribution app tells of pulls, and what is sent has the same form, by distribution's
// own package: its queue, retries, timeouts, headers and rules of what to ignore. The
// actions are others, see [ActionEvict], so that consumers that look for pull or push find
// none of them.
//
// It promises that nobody waits for an endpoint: what one cannot take in time is dropped
// once [Options].Queue events wait for it. It trusts texts to be fit for who gets them, as
// they are for the log. Of this module it imports cache.
package notify

import (
	"crypto/rand"
	"io"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/notifications"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"registry-module/cache"
)

// The actions of events.
const (
	// ActionEvict is that content was removed, with an image as target.
	ActionEvict = "evict"
	// ActionRemote is that the state of a remote has changed.
	ActionRemote = "remote"
	// ActionSpace is that there is no room any more for what is to be stored, or that
	// there is again.
	ActionSpace = "space"
)

// MediaType is that of the targets of all events of this package, which are no content.
const MediaType = "application/vnd.registry-module.event.v1"

// annotation is what the names of annotations begin with.
const annotation = "registry-module."

// Options are optional but for Endpoints.
type Options struct {
	// Endpoints are told, unless they are disabled or ignore what there is to tell.
	Endpoints []configuration.Endpoint
	// Source is what the program is called, such as its host name and port; default
	// empty.
	Source string
	// Queue is how many events may wait for an endpoint; default 1000.
	Queue int
	// Drain is how long Close waits for the endpoints; default 2 s.
	Drain time.Duration
	// Log is told, once for each endpoint that does not keep up, and when it does again;
	// default nobody.
	Log logrus.FieldLogger
}

// Notifier tells endpoints. It is a [cache.Observer], and safe for use by several
// goroutines.
type Notifier struct {
	source    notifications.SourceRecord
	drain     time.Duration
	queue     int
	log       logrus.FieldLogger
	endpoints []*endpoint

	mu     sync.Mutex
	closed bool
}

var _ cache.Observer = (*Notifier)(nil)

// endpoint is one webhook.
type endpoint struct {
	*notifications.Endpoint
	ignore  map[string]bool // actions and media types
	dropped int             // since it has last kept up
}

// New returns a notifier. It sends nothing yet.
func New(opts Options) *Notifier {
	n := &Notifier{
		source: notifications.SourceRecord{Addr: opts.Source, InstanceID: rand.Text()},
		drain:  opts.Drain, queue: opts.Queue, log: opts.Log,
	}
	if n.queue <= 0 {
		n.queue = 1000
	}
	if n.drain <= 0 {
		n.drain = 2 * time.Second
	}
	if n.log == nil {
		discard := logrus.New()
		discard.SetOutput(io.Discard)
		n.log = discard
	}
	for _, e := range opts.Endpoints {
		if e.Disabled {
			continue
		}
		// What is ignored is looked at here: distribution's sink for it cannot be closed.
		ignore := make(map[string]bool)
		for _, list := range [][]string{e.Ignore.Actions, e.Ignore.MediaTypes, e.IgnoredMediaTypes} {
			for _, what := range list {
				ignore[what] = true
			}
		}
		if ignore[MediaType] {
			continue
		}
		n.endpoints = append(n.endpoints, &endpoint{ignore: ignore, Endpoint: notifications.NewEndpoint(e.Name+"/module", e.URL, notifications.EndpointConfig{
			Headers: e.Headers, Timeout: e.Timeout, Threshold: e.Threshold, Backoff: e.Backoff,
			Transport: &http.Transport{Proxy: http.ProxyFromEnvironment},
		})})
	}
	return n
}

// FillEnded implements [cache.Observer]. It tells nobody: pulls are told by the app.
func (n *Notifier) FillEnded(cache.FillEnd) {}

// Evicted implements [cache.Observer].
func (n *Notifier) Evicted(e cache.Eviction) {
	event := n.event(ActionEvict, map[string]string{
		"cause": string(e.Cause),
		"freed": strconv.FormatInt(e.Bytes, 10),
	})
	if !e.Used.IsZero() {
		event.Target.Annotations[annotation+"used"] = e.Used.UTC().Format(time.RFC3339)
	}
	event.Target.Digest = e.Digest
	event.Target.Repository, event.Target.Tag = split(e.Image)
	n.tell(event)
}

// split takes the tag off the name of an image.
func split(image string) (repo, tag string) {
	repo, _, _ = strings.Cut(image, "@")
	if i := strings.LastIndexByte(path.Base(repo), ':'); i >= 0 {
		i += len(repo) - len(path.Base(repo))
		return repo[:i], repo[i+1:]
	}
	return repo, ""
}

// RoomChanged implements [cache.Observer].
func (n *Notifier) RoomChanged(r cache.Room) {
	n.tell(n.event(ActionSpace, map[string]string{"short": strconv.FormatBool(r.Short), "reason": r.Reason}))
}

// RemoteChanged tells that the state of the remote host has changed, and why, unless the
// new one is a good one.
func (n *Notifier) RemoteChanged(host, from, to, reason string) {
	n.tell(n.event(ActionRemote, map[string]string{"remote": host, "from": from, "to": to, "reason": reason}))
}

// event makes one of what is said; what is empty is left out.
func (n *Notifier) event(action string, says map[string]string) notifications.Event {
	e := notifications.Event{ID: rand.Text(), Timestamp: time.Now().UTC(), Action: action, Source: n.source}
	e.Actor.Name = "registry-module"
	e.Target.Descriptor = v1.Descriptor{MediaType: MediaType, Annotations: make(map[string]string)}
	for name, text := range says {
		if text != "" {
			e.Target.Annotations[annotation+name] = text
		}
	}
	return e
}

// tell queues an event for who wants it.
func (n *Notifier) tell(e notifications.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	for _, to := range n.endpoints {
		if to.ignore[e.Action] {
			continue
		}
		var state notifications.EndpointMetrics
		to.ReadMetrics(&state)
		if state.Pending >= n.queue {
			if to.dropped++; to.dropped == 1 {
				n.log.Warnf("the endpoint %s takes no notifications, %d wait for it, and those that follow are dropped", to.Name(), state.Pending)
			}
			continue
		}
		if to.dropped > 0 {
			n.log.Warnf("the endpoint %s takes notifications again; %d were dropped", to.Name(), to.dropped)
			to.dropped = 0
		}
		if err := to.Write(e); err != nil {
			n.log.WithError(err).Warnf("the endpoint %s was not told of %s", to.Name(), e.Action)
		}
	}
}

// Close sends what waits, for as long as Options.Drain, and tells nothing more. What an
// endpoint does not take by then is lost; distribution's package goes on trying until the
// program ends.
func (n *Notifier) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	n.mu.Unlock()
	over := time.NewTimer(n.drain)
	defer over.Stop()
	done := make(chan *endpoint, len(n.endpoints))
	waiting := make(map[*endpoint]bool)
	for _, e := range n.endpoints {
		waiting[e] = true
		go func() {
			_ = e.Close() // of what is closed once, by us
			e.Transport.CloseIdleConnections()
			done <- e
		}()
	}
	for len(waiting) > 0 {
		select {
		case e := <-done:
			delete(waiting, e)
		case <-over.C:
			for e := range waiting {
				var state notifications.EndpointMetrics
				e.ReadMetrics(&state)
				n.log.Warnf("the endpoint %s has not taken %d notifications within %v, which are lost", e.Name(), state.Pending, n.drain)
			}
			return nil
		}
	}
	return nil
}
