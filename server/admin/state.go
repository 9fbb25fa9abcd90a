package admin

import (
	"time"

	"registry-module/cache"
)

// State is what a module does, at one moment. Its JSON is what GET /state and the events of
// the dashboard have. In an event, history is missing where only its last sample has
// changed since the one before for the same viewer: it is the largest part.
type State struct {
	Version string    `json:"version"`
	Host    string    `json:"host"` // of this machine
	Started time.Time `json:"started"`
	Now     time.Time `json:"now"`

	// Ready tells whether it can be sent requests, and NotReady why not.
	Ready    bool     `json:"ready"`
	NotReady []string `json:"notReady,omitempty"`
	// Warnings are what else is to be known, and no reason not to send requests: storage
	// that nothing can be written to, for example.
	Warnings []string `json:"warnings,omitempty"`

	// Offline is whether remotes are left alone, and why.
	Offline Offline `json:"offline"`
	// Remotes are in the order of the configuration.
	Remotes []Remote `json:"remotes"`
	// Downloads are those under way, the oldest first, at most MaxDownloads of them;
	// AllDownloads is how many there are.
	Downloads    []Download `json:"downloads"`
	AllDownloads int        `json:"allDownloads"`
	Disk         Disk       `json:"disk"`
	// Traffic is since the start, and History what it was over time, the oldest first: of
	// two days, in quarters of an hour, the last two hours of them in minutes.
	Traffic Traffic  `json:"traffic"`
	History []Sample `json:"history,omitzero"`
	// Problems are the last ones, the newest first, in words for people.
	Problems []Problem `json:"problems"`
	// Config is what has become of the last change of the configuration.
	Config Config `json:"config"`
	// Seed is how the schedule stands, nil for none.
	Seed *Seed `json:"seed,omitempty"`
	// Images is how many are stored, -1 while that is not known: it is for as long as
	// somebody looks at the list of them. Generation is another one than that of an
	// [ImagePage] when the list has changed, so that who shows it gets it anew. It fits into
	// 53 bits, as numbers of JavaScript do.
	Images     int    `json:"images"`
	Generation uint64 `json:"generation"`
	// Actions tells whether there is a token by which things can be changed.
	Actions bool `json:"actions"`
}

// MaxDownloads bounds the downloads in a [State].
const MaxDownloads = 100

// Offline is whether remotes are left alone.
type Offline struct {
	On     bool   `json:"on"`
	Mode   string `json:"mode"` // on, off, auto
	Reason string `json:"reason"`
	// Until is when that changes by itself; zero is never.
	Until time.Time `json:"until,omitzero"`
}

// Remote is a remote registry.
type Remote struct {
	Host string `json:"host"`
	// State is unknown, online, failing, offline, limited or held, Good whether that is as
	// it should be.
	State string    `json:"state"`
	Good  bool      `json:"good"`
	Since time.Time `json:"since,omitzero"`
	// Reason says why the state is not a good one.
	Reason  string    `json:"reason,omitempty"`
	NextTry time.Time `json:"nextTry,omitzero"`
	// Fetched is how many bytes have come from it, and Served how many of its content went
	// to clients. Requests counts those to it.
	Fetched  int64 `json:"fetched"`
	Served   int64 `json:"served"`
	Requests int64 `json:"requests"`
}

// Download is one that is under way.
type Download struct {
	Image  string `json:"image"` // the repository, as clients call it
	Digest string `json:"digest"`
	Remote string `json:"remote"`
	// Size is -1 where it is not known; Have is how many bytes are there, Rate how many have
	// come in each of the last seconds.
	Size     int64     `json:"size"`
	Have     int64     `json:"have"`
	Rate     int64     `json:"rate"`
	Begun    time.Time `json:"begun"`
	LastByte time.Time `json:"lastByte,omitzero"`
	Clients  int       `json:"clients"`
	Waiting  bool      `json:"waiting"`
	Ahead    bool      `json:"ahead"`
	Failure  string    `json:"failure,omitempty"`
}

// Disk is in bytes.
type Disk struct {
	Used    int64 `json:"used"`
	Limit   int64 `json:"limit"` // 0 is none
	Free    int64 `json:"free"`
	MinFree int64 `json:"minFree"`
	Total   int64 `json:"total"`
	// Kept is what unfinished downloads have that nobody goes on with.
	Kept  int64 `json:"kept"`
	Known bool  `json:"known"`
	// Short says which limit leaves no room; empty where there is some.
	Short   string `json:"short,omitempty"`
	Evicted int64  `json:"evicted"` // since the start
}

// Traffic are counters.
type Traffic struct {
	Hits    int64 `json:"hits"`
	Misses  int64 `json:"misses"`
	Stale   int64 `json:"stale"`
	Failed  int64 `json:"failed"`
	Served  int64 `json:"served"`  // bytes that went to clients
	Fetched int64 `json:"fetched"` // bytes that came from remotes
}

// Sample is the traffic in the time before At, which is so many Seconds long. There is none
// where there was no traffic. At of the last one can be up to that long in the future.
type Sample struct {
	At      time.Time `json:"at"`
	Seconds int       `json:"seconds"`
	Traffic
}

// Problem is something that went wrong.
type Problem struct {
	At time.Time `json:"at"`
	// Text says what, and Hint what can be done about it, if that is known.
	Text string `json:"text"`
	Hint string `json:"hint,omitempty"`
	// Times is how often it was so since First.
	Times int       `json:"times"`
	First time.Time `json:"first"`
}

// Config is what has become of the last change of the configuration.
type Config struct {
	Source string    `json:"source"` // the file, empty for none
	Loaded time.Time `json:"loaded"` // when what is in force was read
	// Error says why a later version is not in force, and Restart what waits for a restart.
	Error   string   `json:"error,omitempty"`
	Restart []string `json:"restart,omitempty"`
}

// Seed is how the schedule of seeding stands.
type Seed struct {
	File    string    `json:"file"`
	Running bool      `json:"running"`
	Last    time.Time `json:"last,omitzero"`
	Next    time.Time `json:"next,omitzero"`
	Images  int       `json:"images"`
	Failed  int       `json:"failed"`
	Error   string    `json:"error,omitempty"`
}

// Image is a stored image, in the list of the dashboard.
type Image struct {
	cache.Image
	// Pinned tells that something keeps it.
	Pinned bool `json:"pinned"`
	// Asked is the name by which clients pull it, and commands and actions take it, with
	// tag or digest.
	Asked string `json:"name"`
}

// ImagePage is a part of the list of images.
type ImagePage struct {
	// Generation is that of the list, see [State].
	Generation uint64 `json:"generation"`
	// All is how many images are stored, and Total how many of them are asked for.
	All   int `json:"all"`
	Total int `json:"total"`
	// Truncated tells that there are more than are listed here: MaxImages.
	Truncated bool `json:"truncated,omitempty"`
	// Offset is where in them Images begins.
	Offset int     `json:"offset"`
	Images []Image `json:"images"`
}
