package cache

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// Observer is told what happens in a cache. Its methods are called by several goroutines,
// some of which hold locks: they return at once, and call nothing of the cache.
type Observer interface {
	// FillEnded is told of each download that has ended.
	FillEnded(FillEnd)
	// Evicted is told of content that was removed by the cache itself, or by command.
	Evicted(Eviction)
	// RoomChanged is told when there begins to be no room for what is to be stored, and
	// when there is again.
	RoomChanged(Room)
}

// FillEnd is how the download of a blob has ended.
type FillEnd struct {
	// Place is the repository by whose name it was asked for first.
	Place  Place
	Digest digest.Digest
	// Size is the blob's in bytes, -1 where it is not known, and Fetched how many came
	// from the remote now: less than Size where it was gone on with.
	Size, Fetched int64
	// Resumed tells that bytes of an earlier download were of use.
	Resumed bool
	// Took is how long it has been under way, with what it has waited for its turn.
	Took time.Duration
	// Err is why it has failed; nil where the blob is verified. Unstored is why a
	// verified blob was not stored.
	Err, Unstored error
}

// EvictionCause says why content was removed.
type EvictionCause string

// The causes of an [Eviction].
const (
	EvictedForRoom EvictionCause = "room"    // the limits say so
	EvictedByAge   EvictionCause = "expired" // nobody has asked for it for too long
	EvictedUnused  EvictionCause = "unused"  // no image uses it
	EvictedByHand  EvictionCause = "removed" // somebody has said so
)

// Eviction is what was removed at once.
type Eviction struct {
	Cause EvictionCause
	// Image is the name by which clients ask for what has gone; empty where it had none.
	Image string
	// Digest is that of the image's manifest, or of content that no image used.
	Digest digest.Digest
	// Bytes is how much of the storage that has given back.
	Bytes int64
	// Used is when somebody has last asked for it; zero where that is not known.
	Used time.Time
}

// Room is whether there is room for what is to be stored.
type Room struct {
	// Short tells that there is not, so that what is fetched is passed through.
	Short bool
	// Reason says which limit it is, and what to do; empty where Short is false.
	Reason string
}

// nobody is an [Observer] to whom nothing is of interest.
type nobody struct{}

func (nobody) FillEnded(FillEnd) {}
func (nobody) Evicted(Eviction)  {}
func (nobody) RoomChanged(Room)  {}

// Observers tells all of them, in order.
type Observers []Observer

var _ Observer = Observers(nil)

// FillEnded implements Observer.
func (o Observers) FillEnded(e FillEnd) {
	for _, one := range o {
		one.FillEnded(e)
	}
}

// Evicted implements Observer.
func (o Observers) Evicted(e Eviction) {
	for _, one := range o {
		one.Evicted(e)
	}
}

// RoomChanged implements Observer.
func (o Observers) RoomChanged(r Room) {
	for _, one := range o {
		one.RoomChanged(r)
	}
}
