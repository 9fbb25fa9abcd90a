package pulls

// Held is what is kept: pulls, callers, and a timer.
func Held(p *Pulls) (pulls, callers int, timer bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open.Len(), len(p.callers), p.timer != nil
}
