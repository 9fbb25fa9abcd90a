package admin

import (
	"crypto/rand"
	"sync"
)

// maxSaidTexts is how many texts are remembered: who is sent back to the page asks for it at
// once.
const maxSaidTexts = 64

// saidTexts are what was said to those who use the page without JavaScript. They are not in
// the address of the page, where anybody could write one for others to believe. The zero
// value has none.
type saidTexts struct {
	mu    sync.Mutex
	texts map[string]Said
	order []string // of their numbers, the oldest first
}

// keep returns a number that nobody can guess.
func (t *saidTexts) keep(said Said) string {
	id := rand.Text()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.texts == nil {
		t.texts = make(map[string]Said)
	}
	if len(t.order) == maxSaidTexts {
		delete(t.texts, t.order[0])
		t.order = append(t.order[:0], t.order[1:]...)
	}
	t.texts[id] = said
	t.order = append(t.order, id)
	return id
}

// Said returns what became of the action whose number the address of the page has in its
// parameter [SaidParameter]. It is false where that is not known, or not any more.
func (s *Server) Said(id string) (Said, bool) {
	s.said.mu.Lock()
	defer s.said.mu.Unlock()
	said, ok := s.said.texts[id]
	return said, ok
}
