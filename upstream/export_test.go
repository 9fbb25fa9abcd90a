package upstream

import "time"

// SetNow gives r another clock for the lifetimes of tokens and of what is
// remembered.
func (r *Remote) SetNow(now func() time.Time) { r.auth.now = now }

// Held is how many connections and efforts s has taken note of.
func (s *Switch) Held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns) + len(s.efforts)
}
