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
	// Blobs is how many manifests and blobs are stored, -1 while that is not known.
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
	// Filling is how many downloads are under way, and Waiting how many of those wait for
	// a connection.
	Filling, Waiting int
	// Started counts downloads that have begun, and Resumed those among them that went on
	// with what was there. Retried counts how often one was broken off and went on.
	Started, Resumed, Retried int64
	// Stored counts those that were verified and stored, and Passed those that were
	// verified and had no room.
	Stored, Passed Count
	// Failed counts the others, by cause: not_found, denied, rate_limited, unavailable,
	// invalid, loop, no_space, closed, error.
	Failed map[string]int64
	// Joined counts clients that had the download of somebody else, and so cost nothing.
	Joined int64
}

// SpaceStats are in bytes.
type SpaceStats struct {
	// Used is what all that is the cache's takes of the storage, Limit how much it may; 0
	// is no limit.
	Used, Limit int64
	// Free is what the storage has left for anybody, MinFree what is to be left of that,
	// and Total its size.
	Free, MinFree, Total int64
	// Pinned is how much of Used cannot be removed to make room; -1 where that is not
	// known.
	Pinned int64
	// Known tells that Used is; after some starts it is counted first.
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
	// Failure is why it was last broken off, if that was since the last byte.
	Failure error
}
