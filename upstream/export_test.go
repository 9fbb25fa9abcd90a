package upstream

import "time"

// SetNow gives r another clock for the lifetimes of tokens and of what is
// remembered.
func (r *Remote) SetNow(now func() time.Time) { r.auth.now = now }
