package server

import (
	"time"

	"registry-module/cache"
)

// Observer is told of each request that was answered. It is called by many goroutines at
// once, in each request: it returns at once.
type Observer interface {
	Answered(Answer)
}

// Beginner is implemented by an [Observer] that wants to know what is under way, too.
// It is called like Answered is.
type Beginner interface {
	// Began is told of each request before anything is done for it. What is known of the
	// answer only is zero, and User as well. Answered follows, once, with the same
	// Begun, Method, Kind, Route, Name, Reference, Client and Agent, whatever becomes of
	// the request.
	Began(Answer)
}

// Observers tell each of several.
type Observers []Observer

// Answered implements Observer.
func (all Observers) Answered(a Answer) {
	for _, o := range all {
		o.Answered(a)
	}
}

// Began implements [Beginner].
func (all Observers) Began(a Answer) {
	for _, o := range all {
		if b, ok := o.(Beginner); ok {
			b.Began(a)
		}
	}
}

// Result says in one word how a request was answered; there are few of them, so that they
// can be counted.
type Result string

// The results of requests.
const (
	Hit         Result = "hit"         // from the store, without a remote
	Miss        Result = "miss"        // fetched
	Revalidated Result = "revalidated" // stored, and confirmed by the remote
	Stale       Result = "stale"       // stored, and could not be confirmed
	Absent      Result = "absent"      // the remote says that it does not exist
	Refused     Result = "refused"     // access, policy, or a request that is none
	Failed      Result = "failed"      // it could not be had, or not to its end
	Left        Result = "left"        // the client has left
)

// The kinds of content that a request can be about, beside [ManifestContent],
// [BlobContent], [TagsContent] and [ReferrersContent].
const (
	CatalogContent = "catalog"
	OtherContent   = "other" // the rest, which is no content
)

// Answer is a request and how it was answered.
type Answer struct {
	// Begun is when its header had come, Waited how long after that the answer began, and
	// Took how long all of it has taken.
	Begun        time.Time
	Waited, Took time.Duration

	// Method is that of HTTP. Kind is what was wanted: [ManifestContent] and the others.
	Method, Kind string
	// Route is what the stock registry calls the endpoint: base, manifest, tags, blob,
	// blob_upload, blob_upload_chunk, catalog; empty where it has none.
	Route string
	// Name is the repository as the client calls it, with the namespace that it has given
	// in front, and Reference the tag or digest.
	Name, Reference string
	// Place is the repository that was meant; zero where that is not known.
	Place cache.Place

	// Status is that of HTTP, 0 where nothing was sent.
	Status int
	// RequestSize is about how many bytes the request has, its body included.
	RequestSize int64
	// Bytes is how many of the body were sent, and Fetched tells that they came from the
	// remote for this request, or one that was under way, which Joined tells.
	Bytes           int64
	Fetched, Joined bool
	Result          Result
	// Age is how long ago the remote has confirmed a tag; -1 where that is not known, or it
	// is none.
	Age time.Duration

	// Manifest is what was sent or told of, without Bytes; zero for none. Parts is how many
	// layers, configurations and manifests it names.
	Manifest cache.Descriptor
	Parts    int

	// Client is the address that the request came from, without port; User who it says that
	// it is, if that was checked; Agent its User-Agent. Name, Reference and Agent are as they
	// came, and can be kilobytes.
	Client, User, Agent string
	// Err is what went wrong.
	Err error
}
