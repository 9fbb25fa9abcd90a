package cache

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// Stats are what a cache has done since it was opened, and what it does now. Counters only
// grow.
type Stats struct {
	// Remotes are in the order of the configuration.
	Remotes []RemoteStats
	Space   SpaceStats
	// Evictions have an entry for each cause that there is.
	Evictions map[EvictionCause]Count
	// Fills are the downloads that are under way, the oldest first.
	Fills []FillStats
	// Kept is how many unfinished downloads nobody goes on with, and how many bytes they
	// have.
	Kept   Count
	Health Health
	// Blobs is how many manifests and blobs are stored, -1 where that is not known: it is
	// counted after some starts.
	Blobs int64
}

// Count is how often something was so, and how many bytes that were together.
type Count struct {
	Times int64 `json:"times"`
	Bytes int64 `json:"bytes"`
}

// RemoteStats are those of one remote.
type RemoteStats struct {
	Host string
	// Filling is how many downloads are under way, those that are only passed through among
	// them, and Waiting how many of those wait for a connection.
	Filling, Waiting int
	// Started counts downloads that have begun, each of which is under way, or among
	// Stored, Passed and Failed. Resumed counts those that went on with what was there, and
	// Retried how often one was broken off and went on.
	Started, Resumed, Retried int64
	// Stored counts those that were verified and stored, and Passed those that were
	// verified and could not be stored, with all the bytes of these blobs. A download that
	// has no room has failed (no_space), and is another one for each client that it is
	// passed through to.
	Stored, Passed Count
	// Failed counts the others, by cause: not_found, denied, rate_limited, unavailable,
	// invalid, loop, no_space, closed, error. Closed is for the end of the cache, and of the
	// client that a blob was passed through to. All causes are there.
	Failed map[string]int64
	// Joined counts clients that had the download of somebody else, and so cost nothing.
	Joined int64
}

// SpaceStats are in bytes.
type SpaceStats struct {
	// Used is what all that is the cache's takes of the storage, Limit how much it may; 0
	// is no limit. See Known.
	Used, Limit int64
	// Free is what the storage has left for anybody, MinFree what is to be left of that,
	// and Total its size; 0 where the storage does not tell. They are up to a second old.
	Free, MinFree, Total int64
	// Pinned is how much of Used is pinned, and so cannot be removed to make room, as of
	// when that was last looked for, which is when room was made; -1 where that is not
	// known.
	Pinned int64
	// Known tells that Used is right; after some starts what is stored is counted first.
	Known bool
	// Room is whether there is some.
	Room Room
}

// FillStats are those of a download that is under way.
type FillStats struct {
	Place  Place
	Digest digest.Digest
	// Size is the blob's, -1 where it is not known, Have how many bytes are there, and
	// Fetched how many of them have come since it began.
	Size, Have, Fetched int64
	Begun               time.Time
	// LastByte is when the last one has come; zero where none has.
	LastByte time.Time
	// Waiting tells that it waits for a connection, and Clients how many readers it has.
	Waiting bool
	Clients int
	// Ahead tells that no client waits for it: it is fetched ahead of need.
	Ahead bool
	// Passing tells that it is not stored, since there is no room for it. It is for one
	// client, and ends with that.
	Passing bool
	// Failure is why it was last broken off, if that was since the last byte; nil for one
	// that is passed through.
	Failure error
}
