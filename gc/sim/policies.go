package sim

import (
	"fmt"
	"math"

	"registry-module/gc"
)

// Chosen is what package gc does for a cache that remembers uses of evicted
// images until they have faded, and tells when a tag moves.
func Chosen() Policy {
	p := Untold()
	p.Name = "chosen"
	p.Succeed = func(old, new State) (State, State) {
		old.Use, new.Use = old.Use.Succeed(new.Use)
		return old, new
	}
	return p
}

// Untold is [Chosen] where tags never move, but each version has a tag of its
// own.
func Untold() Policy {
	return Policy{
		Name:   "chosen, tags do not move",
		Forget: func(s State, turns float64) bool { return s.Use.Faded(turns) },
		Touch: func(s State, n Now) State {
			s.Use = s.Use.Touch(int64(n.Number), n.Turns)
			return s
		},
	}
}

// LRU evicts the image whose last use is longest ago.
func LRU() Policy {
	return scored("LRU", func(_ State, n Now) float64 { return float64(n.Number) })
}

// Candidates are all policies that were tried.
func Candidates() []Policy {
	lfu := scored("LFU", func(s State, _ Now) float64 { return s.Count })
	lfuda := scored("LFU-DA", func(s State, n Now) float64 { return n.Floor + s.Count })
	lru2 := scored("LRU-2", func(s State, _ Now) float64 { return s.Times[1] })
	list := []Policy{
		LRU(), lfu, remembers(lfu, math.Inf(1)), lfuda, remembers(lfuda, math.Inf(1)),
		scored("GDSF, cost 1", func(s State, n Now) float64 {
			return n.Floor + s.Count*100*mega/float64(n.Size)
		}),
		scored("GDSF, cost 50 MB + size", func(s State, n Now) float64 {
			return n.Floor + s.Count*(50*mega/float64(n.Size)+1)
		}),
		lru2, remembers(lru2, 2), remembers(lru2, math.Inf(1)),
	}
	inf := math.Inf(1)
	for _, halfLife := range []float64{0.25, 0.5, 1, 2, 4} {
		for _, probation := range []float64{0, 2} {
			list = append(list, remembers(Decay(halfLife, probation, inf), 2))
		}
	}
	for _, ceiling := range []float64{0, 1, 2} {
		list = append(list, remembers(Decay(1, 2, ceiling), 2))
	}
	list = append(list, remembers(Decay(1, 4, 1), 2), remembers(Decay(2, 2, 1), 2))
	like := Decay(1, 2, 1)
	list = append(list, like)
	for _, turns := range []float64{1, 4, inf} {
		list = append(list, remembers(like, turns))
	}
	for _, loss := range []float64{0, 2, 6, 12} {
		list = append(list, inherits(remembers(like, 2), loss))
	}
	return append(list, Untold(), Chosen())
}

// scored returns a policy whose score is a function of counts and times.
func scored(name string, f func(State, Now) float64) Policy {
	return Policy{Name: name, Touch: func(s State, n Now) State {
		s.Count++
		s.Times[1], s.Times[0] = s.Times[0], float64(n.Number)
		s.Use = gc.Use{Last: int64(n.Number), Score: f(s, n)}
		return s
	}}
}

// Decay counts uses of which each is halved every halfLife turns. The first
// counts less by probation half-lives, and all together as much as one now and
// ceiling half-lives more, at most.
func Decay(halfLife, probation, ceiling float64) Policy {
	name := fmt.Sprintf("decay %g, probation %g", halfLife, probation)
	if !math.IsInf(ceiling, 1) {
		name += fmt.Sprintf(", ceiling %g", ceiling)
	}
	return Policy{Name: name, Touch: func(s State, n Now) State {
		one := 100 + n.Turns/halfLife
		if s.Use.Score == 0 {
			s.Use.Score = one - probation
		} else {
			high, low := max(s.Use.Score, one), min(s.Use.Score, one)
			s.Use.Score = min(high+math.Log2(1+math.Exp2(low-high)), one+ceiling)
		}
		s.Use.Last = int64(n.Number)
		return s
	}}
}

// remembers makes p remember evicted images for so many turns after their last
// use.
func remembers(p Policy, turns float64) Policy {
	if math.IsInf(turns, 1) {
		p.Name += ", remembers for ever"
	} else {
		p.Name += fmt.Sprintf(", remembers %g", turns)
	}
	p.Forget = func(s State, now float64) bool { return now-s.Last > turns }
	return p
}

// inherits makes a new version in p begin with what the one before was worth,
// which then is worth so many half-lives less.
func inherits(p Policy, loss float64) Policy {
	p.Name += fmt.Sprintf(", inherits, loss %g", loss)
	p.Succeed = func(old, new State) (State, State) {
		new.Use.Score = max(old.Use.Score, new.Use.Score)
		if old.Use.Score > 0 {
			old.Use.Score = max(old.Use.Score-loss, 1)
		}
		return old, new
	}
	return p
}
