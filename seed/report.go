package seed

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// Plan is what a [Job] comes to. Sizes are in bytes.
type Plan struct {
	Images []PlannedImage `json:"images"`
	// Blobs is how many different blobs and manifests those consist of, with Size bytes.
	Blobs int   `json:"blobs"`
	Size  int64 `json:"size"`
	// Present is how much of Size is there already, and Fetch how much is to come.
	Present int64 `json:"present"`
	Fetch   int64 `json:"fetch"`
	// Disk is how much more of the storage will be taken, in its blocks. Pinned is what
	// all that is pinned takes then, of Limit; 0 is no limit.
	Disk   int64 `json:"disk"`
	Pinned int64 `json:"pinned"`
	Limit  int64 `json:"limit"`
	// Fits tells whether there is room. Why says what is missing where there is none.
	Fits bool   `json:"fits"`
	Why  string `json:"why,omitempty"`
	// Prune are the pins that are taken back.
	Prune []string `json:"prune,omitempty"`
}

// PlannedImage is an image of a [Plan].
type PlannedImage struct {
	// Image is how it is written in the job; with Tags, with the tag. From is that of
	// the [Want].
	Image string `json:"image"`
	From  string `json:"from,omitempty"`
	// Remote is the host of its registry, and Repository its name there.
	Remote     string        `json:"remote,omitempty"`
	Repository string        `json:"repository,omitempty"`
	Tag        string        `json:"tag,omitempty"`
	Digest     digest.Digest `json:"digest,omitempty"`
	// Platforms are those to be fetched, where that is known.
	Platforms []string `json:"platforms,omitempty"`
	// Layers is how many blobs its manifests name, Attached how many manifests refer to it.
	Layers   int `json:"layers"`
	Attached int `json:"attached"`
	// Size is that of all its content, each once, and Fetch what is to come of it, be it
	// for another image, too.
	Size  int64 `json:"size"`
	Fetch int64 `json:"fetch"`
	// Error is why nothing is known of it, and it will fail.
	Error string `json:"error,omitempty"`
	// Warning is what is worth to know, for example that its remote does not answer and
	// what is stored was taken.
	Warning string `json:"warning,omitempty"`
}

// State is what has become of an image.
type State string

// The states of a [SeededImage].
const (
	// Seeded is one of which something was fetched, and Present one that was there.
	Seeded  State = "seeded"
	Present State = "present"
	// Unconfirmed is one that is there and whose remote could not be asked.
	Unconfirmed State = "unconfirmed"
	Failed      State = "failed"
)

// Report is what has come of a [Job].
type Report struct {
	Images []SeededImage `json:"images"`
	// Fetched is how many bytes came from the remotes for blobs.
	Fetched int64 `json:"fetched"`
	// Size is that of all content of the images, each once.
	Size int64 `json:"size"`
	// Pruned are the pins that were taken back.
	Pruned []string      `json:"pruned,omitempty"`
	Took   time.Duration `json:"took"` // nanoseconds
	// Warning is what is worth to know of the whole, for example why nothing was pruned.
	Warning string `json:"warning,omitempty"`
}

// SeededImage is an image of a [Report].
type SeededImage struct {
	Image     string        `json:"image"`
	From      string        `json:"from,omitempty"`
	Remote    string        `json:"remote,omitempty"`
	Digest    digest.Digest `json:"digest,omitempty"`
	Platforms []string      `json:"platforms,omitempty"`
	State     State         `json:"state"`
	Attached  int           `json:"attached"`
	Size      int64         `json:"size"`
	Fetched   int64         `json:"fetched"`
	Pinned    bool          `json:"pinned"`
	Error     string        `json:"error,omitempty"`
	Warning   string        `json:"warning,omitempty"`
}

// Failures is how many images are not there, or not confirmed.
func (r Report) Failures() (n int) {
	for _, i := range r.Images {
		if i.State == Failed || i.State == Unconfirmed {
			n++
		}
	}
	return n
}

// Progress is how far a job is.
type Progress struct {
	// Images is how many are done, of TotalImages.
	Images      int `json:"images"`
	TotalImages int `json:"totalImages"`
	Failed      int `json:"failed"`
	// Bytes is how much is there of TotalBytes, and Fetched how much of it came from the
	// remotes now.
	Bytes      int64 `json:"bytes"`
	TotalBytes int64 `json:"totalBytes"`
	Fetched    int64 `json:"fetched"`
	// Active are the blobs that are being fetched.
	Active []ActiveBlob `json:"active,omitempty"`
	// Done is an image that has come to its end just now; nil in most.
	Done *SeededImage `json:"done,omitempty"`
}

// ActiveBlob is a blob that is being fetched.
type ActiveBlob struct {
	Image  string        `json:"image"`
	Digest digest.Digest `json:"digest"`
	Bytes  int64         `json:"bytes"`
	Size   int64         `json:"size"`
}
