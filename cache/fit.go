package cache

// Fit tells whether content that is to be kept has room. Sizes are in bytes of the storage.
type Fit struct {
	// More is how much more will be taken by what is not stored yet.
	More int64 `json:"more"`
	// Kept is what all that is kept takes then, pinned before or now, and Limit how much
	// that may be; 0 is no limit.
	Kept  int64 `json:"kept"`
	Limit int64 `json:"limit"`
	// OK tells whether it fits, if need be when all has gone that may go.
	OK bool `json:"ok"`
}
