package cache

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// Image is a manifest that is stored under one of its names, with what it consists of.
type Image struct {
	// Repository is the name under which it is stored, and by which clients can ask
	// for it. Remote is the host of the registry that it is of.
	Repository string `json:"repository"`
	Remote     string `json:"remote"`
	// Name is what that registry calls the repository; empty where it is not configured.
	Name string `json:"name,omitempty"`
	// Tag is empty for a manifest that no tag stands for and no index names.
	Tag       string        `json:"tag,omitempty"`
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	// Platforms are those that are stored, in the form os/architecture[/variant].
	Platforms []string `json:"platforms,omitempty"`
	// Size is how many bytes of it are stored, each blob once, and Unique how many of
	// those no other image uses: what removing it would give back.
	Size   int64 `json:"size"`
	Unique int64 `json:"unique"`
	// Complete tells that everything is stored that its manifests name; of an index,
	// of at least one platform. Missing is how many blobs are not stored of the
	// manifests that are.
	Complete bool `json:"complete"`
	Missing  int  `json:"missing"`
	// Used is when somebody has last asked for it, and Confirmed when the remote has
	// last said that Tag stands for it; zero where nobody knows.
	Used      time.Time `json:"used,omitzero"`
	Confirmed time.Time `json:"confirmed,omitzero"`
	// Pins are those that keep it.
	Pins []Pin `json:"pins,omitempty"`
}

// Pin keeps images from being removed to make room.
type Pin struct {
	// Pattern is REPOSITORY, REPOSITORY:TAG or REPOSITORY@DIGEST. In REPOSITORY, the
	// name under which it is stored, and in TAG, * stands for anything but a slash, and
	// ** for anything. Without a tag it is for the whole repository.
	Pattern string    `json:"pattern"`
	Reason  PinReason `json:"reason"`
	// Since is when it was set; zero for one of the configuration.
	Since time.Time `json:"since,omitzero"`
}

// PinReason says who wants that images are kept.
type PinReason string

// The reasons for a [Pin].
const (
	PinnedByOperator PinReason = "operator" // registry-module pin
	PinnedBySeed     PinReason = "seeded"   // filled ahead of time
	PinnedByPolicy   PinReason = "policy"   // the configuration
)

// ImageDetail is all that is known of an image.
type ImageDetail struct {
	Image
	// Manifests are its own, and those of its platforms if it is an index.
	Manifests []ManifestDetail `json:"manifests"`
	// Tags are all in the repository that stand for it.
	Tags []string `json:"tags,omitempty"`
	// Repositories are all in which its manifest is stored.
	Repositories []string `json:"repositories"`
	// Attached are the manifests that are stored and refer to it: signatures, SBOMs.
	Attached []digest.Digest `json:"attached,omitempty"`
	// AttachedTags are those in the repository that are made of its digest, as cosign and
	// the referrers tag schema have them, and stand for what is attached to it.
	AttachedTags []string `json:"attachedTags,omitempty"`
	// Fresh tells until when the tag is answered without asking the remote; zero where
	// that is for ever, or it is stale already.
	Fresh time.Time `json:"fresh,omitzero"`
	Stale bool      `json:"stale"`
}

// ManifestDetail is a manifest of an image.
type ManifestDetail struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Platform  string        `json:"platform,omitempty"`
	// Stored tells whether it is. Size is its own in bytes.
	Stored bool       `json:"stored"`
	Size   int64      `json:"size"`
	Used   time.Time  `json:"used,omitzero"`
	Parts  []PartInfo `json:"parts,omitempty"`
}

// PartInfo is a blob that a manifest names.
type PartInfo struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
	// Stored tells whether it is; Kept is how many bytes are of one that is being
	// downloaded, or whose download was put aside.
	Stored bool  `json:"stored"`
	Kept   int64 `json:"kept,omitempty"`
	// Shared is how many stored manifests name it.
	Shared int `json:"shared"`
}

// Removed is what was taken out of the cache.
type Removed struct {
	Tags      int `json:"tags"`
	Manifests int `json:"manifests"`
	Blobs     int `json:"blobs"`
	// Bytes is what that has given back.
	Bytes int64 `json:"bytes"`
	// Remaining are tags, in the form REPOSITORY:TAG, that stand for the same and keep it.
	Remaining []string `json:"remaining,omitempty"`
}

// Victim is an image, or something that no image uses, which is to be removed or was.
type Victim struct {
	// Images are its names, in the form REPOSITORY:TAG or REPOSITORY@DIGEST; empty for
	// a blob that no stored manifest names.
	Images []string      `json:"images,omitempty"`
	Digest digest.Digest `json:"digest"`
	// Why is one of "expired", "unused" for what nothing uses, and "room".
	Why   string    `json:"why"`
	Blobs int       `json:"blobs"`
	Bytes int64     `json:"bytes"`
	Used  time.Time `json:"used,omitzero"`
}

// Collection is what a removal of what is worth least has done, or would do.
type Collection struct {
	Victims []Victim `json:"victims"`
	// Freed is how many bytes that gives back.
	Freed int64 `json:"freed"`
	// Used is how much of Limit is taken then, in bytes; Limit is 0 where there is none.
	Used  int64 `json:"used"`
	Limit int64 `json:"limit"`
	// Kept is how many bytes are pinned, and Busy how many belong to running pulls.
	Kept int64 `json:"kept"`
	Busy int64 `json:"busy"`
}

// CollectOptions say what to remove. The zero value removes what has expired, what
// nothing uses, and what is over the limits.
type CollectOptions struct {
	// Free is how many bytes to make free at least, whatever the limits are.
	Free int64
	// DryRun only tells what would be removed.
	DryRun bool
}

// VerifyOptions say how to verify what is stored. The zero value is good.
type VerifyOptions struct {
	// Repair takes damaged content away, and fetches it again where its remote can be
	// asked. Without it, it is only reported.
	Repair bool
	// Rate is how many bytes to read in a second; 0 is no limit.
	Rate int64
	// Progress is called now and then, and once at the end; nil for nobody.
	Progress func(VerifyProgress)
}

// VerifyProgress tells how far it is.
type VerifyProgress struct {
	Blobs      int   `json:"blobs"`
	TotalBlobs int   `json:"totalBlobs"`
	Bytes      int64 `json:"bytes"`
	TotalBytes int64 `json:"totalBytes"`
	Damaged    int   `json:"damaged"`
}

// VerifyReport is what came of it.
type VerifyReport struct {
	Blobs    int           `json:"blobs"`
	Bytes    int64         `json:"bytes"`
	Problems []Problem     `json:"problems"`
	Took     time.Duration `json:"took"` // nanoseconds
}

// Problem is something in the store that is not as it has to be.
type Problem struct {
	// Digest is the content's, if it is about content.
	Digest digest.Digest `json:"digest,omitempty"`
	// Image is a name that it is used by, if there is one.
	Image string `json:"image,omitempty"`
	// What is wrong.
	What string `json:"what"`
	// Repaired tells that it is right again. Hint says what to do where it is not.
	Repaired bool   `json:"repaired"`
	Hint     string `json:"hint,omitempty"`
}
