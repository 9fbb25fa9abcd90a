package gc_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"registry-module/gc"
)

// stored describes a graph in maps, by names instead of digests. A name's first
// letter says what it is: i an index, m a manifest of an image, s what is
// attached, anything else a blob.
type stored struct {
	size    map[string]int64 // 100 KiB where it is not said
	score   map[string]float64
	parts   map[string]string // separated by spaces; what is there is stored, unless in absent
	subject map[string]string
	absent  string
	keep    string
	busy    string
	expired string
	fresh   string
}

func id(name string) gc.ID {
	var id gc.ID
	for i := range 8 {
		id <<= 8
		if i < len(name) {
			id |= gc.ID(name[i])
		}
	}
	return id
}

func name(id gc.ID) string {
	var b []byte
	for ; id != 0; id <<= 8 {
		b = append(b, byte(id>>56))
	}
	return string(b)
}

func ids(names string) []gc.ID {
	var list []gc.ID
	for _, name := range strings.Fields(names) {
		list = append(list, id(name))
	}
	return list
}

const unit = 100 << 10

func (s stored) graph() *gc.Graph {
	g := new(gc.Graph)
	names := map[string]bool{}
	add := func(list string) {
		for _, name := range strings.Fields(list) {
			names[name] = true
		}
	}
	for name, parts := range s.parts {
		add(name + " " + parts)
	}
	for name, subject := range s.subject {
		add(name + " " + subject)
	}
	for name := range s.size {
		add(name)
	}
	for _, name := range strings.Fields(s.absent) {
		delete(names, name)
	}
	for name := range names {
		size, ok := s.size[name]
		if !ok {
			size = unit
		}
		g.Add(id(name), size, gc.Use{Score: s.score[name]})
	}
	for name, parts := range s.parts {
		if name[0] == 'i' {
			g.Index(id(name), ids(parts))
		} else {
			g.Manifest(id(name), ids(parts))
		}
	}
	for name, subject := range s.subject {
		g.Attach(id(name), id(subject))
	}
	for _, id := range ids(s.keep) {
		g.Keep(id)
	}
	for _, id := range ids(s.busy) {
		g.Busy(id)
	}
	for _, id := range ids(s.expired) {
		g.Expired(id, true)
	}
	for _, id := range ids(s.fresh) {
		g.Expired(id, false)
	}
	return g
}

// line puts a plan into a line such as "room m1: i m1 a b, m2: m2 c".
func line(p gc.Plan) string {
	var victims []string
	var why gc.Why
	for _, v := range p.Victims {
		var b strings.Builder
		if v.Why != why {
			b.WriteString(v.Why.String() + " ")
			why = v.Why
		}
		b.WriteString(name(v.ID) + ":")
		for _, id := range v.Content {
			b.WriteString(" " + name(id))
		}
		victims = append(victims, b.String())
	}
	return strings.Join(victims, ", ")
}

func TestPlan(t *testing.T) {
	const all = math.MaxInt64
	tests := map[string]struct {
		stored
		free   int64
		unused bool
		want   string
	}{
		"nothing to do": {
			stored{parts: map[string]string{"m": "a"}, size: map[string]int64{"loose": 1}}, 0, false,
			"",
		},
		"nothing is stored": {stored{}, all, true, ""},
		"coldest image": {
			stored{parts: map[string]string{"m1": "a", "m2": "b"}, score: map[string]float64{"m1": 2, "m2": 1, "b": 9}}, 1, false,
			"room m2: m2 b",
		},
		"as many as needed": {
			stored{parts: map[string]string{"m1": "a", "m2": "b", "m3": "c"}, score: map[string]float64{"m1": 2, "m2": 1, "m3": 3}}, 2*unit + 1, false,
			"room m2: m2 b, m1: m1 a",
		},
		"shared layer stays with the other": {
			stored{parts: map[string]string{"m1": "a base", "m2": "b base"}, score: map[string]float64{"m1": 2, "m2": 1}}, 1, false,
			"room m2: m2 b",
		},
		"shared layer goes with the last": {
			stored{parts: map[string]string{"m1": "a base", "m2": "b base"}, score: map[string]float64{"m1": 2, "m2": 1}}, all, false,
			"room m2: m2 b, m1: m1 a base",
		},
		"layer twice in one manifest": {
			stored{parts: map[string]string{"m1": "a a", "m2": "b"}, score: map[string]float64{"m2": 1}}, 1, false,
			"room m1: m1 a",
		},
		"unused goes first, as much as needed": {
			stored{parts: map[string]string{"m": "a"}, size: map[string]int64{"x": unit, "y": unit}, score: map[string]float64{"x": 5, "y": 4}}, 1, false,
			"unused y: y",
		},
		"all that is unused": {
			stored{parts: map[string]string{"m": "a"}, size: map[string]int64{"x": unit, "y": unit}, score: map[string]float64{"x": 5, "y": 4}}, 0, true,
			"unused y: y, x: x",
		},
		"part of a pull is not unused": {
			stored{size: map[string]int64{"x": unit, "y": unit}, busy: "y"}, all, true,
			"unused x: x",
		},
		"expired goes in any case": {
			stored{parts: map[string]string{"m1": "a", "m2": "b"}, score: map[string]float64{"m1": 9}, expired: "m1"}, 0, false,
			"expired m1: m1 a",
		},
		"expired goes before what is worth less": {
			stored{parts: map[string]string{"m1": "a", "m2": "b"}, score: map[string]float64{"m1": 9}, expired: "m1"}, 2*unit + 1, false,
			"expired m1: m1 a, room m2: m2 b",
		},
		"expired by one name of two": {
			stored{parts: map[string]string{"m1": "a"}, expired: "m1", fresh: "m1"}, 0, false,
			"",
		},
		"expired with its index": {
			stored{parts: map[string]string{"i": "m1 m2", "m1": "a", "m2": "b"}, expired: "i"}, 0, false,
			"expired m1: m1 a, m2: i m2 b",
		},
		"image of an expired index that is used by itself": {
			stored{parts: map[string]string{"i": "m1 m2", "m1": "a", "m2": "b"}, expired: "i", fresh: "m1"}, 0, false,
			"expired m2: m2 b",
		},
		"image of an index that is used": {
			stored{parts: map[string]string{"i": "m1", "m1": "a"}, expired: "m1", fresh: "i"}, 0, false,
			"",
		},
		"index goes with its last image": {
			stored{parts: map[string]string{"i": "m1 m2", "m1": "a", "m2": "b"}, score: map[string]float64{"m1": 2, "m2": 1}}, all, false,
			"room m2: m2 b, m1: i m1 a",
		},
		"index stays with an image": {
			stored{parts: map[string]string{"i": "m1 m2", "m1": "a", "m2": "b"}, score: map[string]float64{"m1": 2, "m2": 1}}, 1, false,
			"room m2: m2 b",
		},
		"index of no image": {
			stored{parts: map[string]string{"i": "m1 m2"}, absent: "m1 m2"}, all, false,
			"room i: i",
		},
		"index of indexes": {
			stored{parts: map[string]string{"i1": "i2", "i2": "m", "m": "a"}}, all, false,
			"room m: i1 i2 m a",
		},
		"index of layers": {
			stored{parts: map[string]string{"i": "a b"}}, all, false,
			"room i: i a b",
		},
		"image is worth its index less one half-life": {
			stored{parts: map[string]string{"i": "m1", "m1": "a", "m2": "b", "m3": "c"}, score: map[string]float64{"i": 5, "m2": 4.5, "m3": 3.5}}, all, false,
			"room m3: m3 c, m1: i m1 a, m2: m2 b",
		},
		"what is attached goes along": {
			stored{parts: map[string]string{"m": "a", "s1": "b", "s2": "c"}, subject: map[string]string{"s1": "m", "s2": "s1"}, score: map[string]float64{"m": 1, "s2": 8}}, 1, false,
			"room m: m s1 s2 a b c",
		},
		"what is attached to an index goes with it": {
			stored{parts: map[string]string{"i": "m", "m": "a", "s": "b"}, subject: map[string]string{"s": "i"}}, 1, false,
			"room m: i m s a b",
		},
		"attestation in the index": {
			stored{parts: map[string]string{"i": "m1 m2 s1 s2", "m1": "a", "m2": "b", "s1": "c", "s2": "d"}, subject: map[string]string{"s1": "m1", "s2": "m2"}, score: map[string]float64{"m1": 2, "m2": 1}}, all, false,
			"room m2: m2 s2 b d, m1: i m1 s1 a c",
		},
		"attached to its index": {
			stored{parts: map[string]string{"i": "s", "s": "a"}, subject: map[string]string{"s": "i"}}, all, false,
			"room i: i s a",
		},
		"attached to a blob": {
			stored{parts: map[string]string{"m": "a", "s": "b"}, subject: map[string]string{"s": "a"}}, all, false,
			"room m: m a, s: s b",
		},
		"attached to its own layer": {
			stored{parts: map[string]string{"s": "b"}, subject: map[string]string{"s": "b"}}, all, false,
			"room s: s b",
		},
		"attached to what is not stored": {
			stored{parts: map[string]string{"s": "b"}, subject: map[string]string{"s": "m"}, absent: "m"}, all, false,
			"room s: s b",
		},
		"attached in a ring": {
			stored{parts: map[string]string{"s": "b"}, subject: map[string]string{"s": "s"}}, all, false,
			"room s: s b",
		},
		"image of an attached index is an image": {
			stored{parts: map[string]string{"m1": "a", "i": "m2", "m2": "b"}, subject: map[string]string{"i": "m1"}, score: map[string]float64{"m1": 1}}, all, false,
			"room m2: m2 b, m1: m1 i a",
		},
		"not complete goes before complete": {
			stored{parts: map[string]string{"m1": "a", "m2": "b c"}, absent: "c"}, 1, false,
			"room m2: m2 b",
		},
		"kept": {
			stored{parts: map[string]string{"m1": "a base", "m2": "b base", "s": "c"}, subject: map[string]string{"s": "m1"}, keep: "m1"}, all, false,
			"room m2: m2 b",
		},
		"kept and expired": {
			stored{parts: map[string]string{"m1": "a"}, keep: "m1", expired: "m1"}, all, false,
			"",
		},
		"kept index with all its images": {
			stored{parts: map[string]string{"i": "m1 m2", "m1": "a", "m2": "b"}, keep: "i"}, all, false,
			"",
		},
		"busy image keeps its index": {
			stored{parts: map[string]string{"i": "m1 m2", "m1": "a", "m2": "b", "s": "c"}, subject: map[string]string{"s": "i"}, busy: "m1"}, all, false,
			"room m2: m2 b",
		},
		"kept attestation keeps no index": {
			stored{parts: map[string]string{"i": "m s", "m": "a", "s": "b"}, subject: map[string]string{"s": "m"}, keep: "s"}, all, false,
			"room m: i m a",
		},
		"busy layer": {
			stored{parts: map[string]string{"m1": "a b"}, busy: "b"}, all, false,
			"room m1: m1 a",
		},
		"frees next to nothing": {
			stored{
				parts: map[string]string{"m1": "base", "m2": "base", "m3": "a"},
				size:  map[string]int64{"m1": 1 << 10, "m2": 1 << 10},
				score: map[string]float64{"m1": 1, "m2": 3, "m3": 2},
			}, 1, false,
			"room m1: m1", // a kilobyte is what was asked for
		},
		"frees next to nothing of what is needed": {
			stored{
				parts: map[string]string{"m1": "base", "m2": "base", "m3": "a"},
				size:  map[string]int64{"m1": 1 << 10, "m2": 1 << 10},
				score: map[string]float64{"m1": 1, "m2": 3, "m3": 2},
			}, unit, false,
			"room m3: m3 a",
		},
		"frees something together with others": {
			stored{
				parts: map[string]string{"m1": "base", "m2": "base", "m3": "a"},
				size:  map[string]int64{"m1": 1 << 10, "m2": 1 << 10},
				score: map[string]float64{"m1": 1, "m2": 2, "m3": 3},
			}, unit, false,
			"room m1: m1, m2: m2 base",
		},
		"frees next to nothing, and its index goes with another": {
			stored{
				parts: map[string]string{"i": "m1 m2", "m1": "base", "m2": "a", "m3": "base"},
				size:  map[string]int64{"m1": 1, "m2": 1, "i": 1},
				score: map[string]float64{"m1": 1, "m2": 2, "m3": 3},
			}, unit, false,
			"room m1: m1, m2: i m2 a",
		},
		"index of images that free next to nothing": {
			stored{
				parts: map[string]string{"i": "m1 m2", "m1": "base", "m2": "base", "m3": "base", "m4": "a"},
				size:  map[string]int64{"i": 1, "m1": 1, "m2": 1, "m3": 1},
				score: map[string]float64{"m3": 9, "m4": 8},
			}, unit, false,
			"room m4: m4 a",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			g := tt.graph()
			for _, again := range []string{"", ", again"} {
				p := g.Plan(gc.PlanOptions{Free: tt.free, Unused: tt.unused})
				if got := line(p); got != tt.want {
					t.Errorf("got  %s%s\nwant %s", got, again, tt.want)
				}
			}
		})
	}
}

func TestPlanTotals(t *testing.T) {
	g := stored{
		parts: map[string]string{"m1": "a base", "m2": "b base", "m3": "c", "i": "m4 m5", "m4": "d", "m5": "e"},
		size:  map[string]int64{"a": 1, "b": 2, "base": 4, "c": 8, "d": 16, "e": 32, "m1": 64, "m2": 128, "m3": 256, "i": 512, "m4": 1024, "m5": 2048},
		keep:  "m1", busy: "m2 m4",
	}.graph()
	want := gc.Plan{Kept: 1 + 4 + 64, Busy: 2 + 128 + 16 + 1024, Evictable: 8 + 256 + 32 + 2048}
	p := g.Plan(gc.PlanOptions{})
	p.Victims = nil
	if fmt.Sprint(p) != fmt.Sprint(want) {
		t.Errorf("got %+v, want %+v", p, want)
	}
	if p := g.Plan(gc.PlanOptions{Free: math.MaxInt64}); p.Freed != want.Evictable {
		t.Errorf("%d bytes are freed of %d", p.Freed, want.Evictable)
	}
}

func TestSizes(t *testing.T) {
	tests := map[string]struct {
		stored
		id      string
		size    string // what is counted
		unique  string
		missing int
	}{
		"not stored":                 {stored{}, "m", "", "", 0},
		"image":                      {stored{parts: map[string]string{"m": "a b"}}, "m", "m a b", "m a b", 0},
		"layer twice":                {stored{parts: map[string]string{"m": "a a"}}, "m", "m a", "m a", 0},
		"shared layer":               {stored{parts: map[string]string{"m": "a b", "m2": "b"}}, "m", "m a b", "m a", 0},
		"not complete":               {stored{parts: map[string]string{"m": "a b b c"}, absent: "b c"}, "m", "m a", "m a", 2},
		"absent platform":            {stored{parts: map[string]string{"i": "m m2", "m": "a"}, absent: "m2"}, "i", "i m a", "i m a", 0},
		"layer of a platform":        {stored{parts: map[string]string{"i": "m m2", "m": "a b"}, absent: "m2 b"}, "i", "i m a", "i m a", 1},
		"image of two indexes":       {stored{parts: map[string]string{"i": "m m2", "i2": "m", "m": "a", "m2": "b"}}, "i", "i m m2 a b", "i m2 b", 0},
		"image of an index":          {stored{parts: map[string]string{"i": "m m2", "m": "a", "m2": "b"}}, "m", "m a", "m a", 0},
		"layer of two of its images": {stored{parts: map[string]string{"i": "m m2", "m": "a", "m2": "a"}}, "i", "i m m2 a", "i m m2 a", 0},
		"signature":                  {stored{parts: map[string]string{"m": "a", "s": "b"}, subject: map[string]string{"s": "m"}}, "m", "m s a b", "m s a b", 0},
		"attached to another":        {stored{parts: map[string]string{"i": "m s", "m": "a", "s": "b", "m2": ""}, subject: map[string]string{"s": "m2"}}, "i", "i m s a b", "i m a", 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			size, unique, missing := tt.graph().Sizes(id(tt.id))
			if size != int64(len(ids(tt.size)))*unit || unique != int64(len(ids(tt.unique)))*unit || missing != tt.missing {
				t.Errorf("%d of it %d, missing %d; want %s of it %s, %d", size/unit, unique/unit, missing, tt.size, tt.unique, tt.missing)
			}
		})
	}
}

func TestAddMerges(t *testing.T) {
	g := new(gc.Graph)
	g.Add(1, 10, gc.Use{Last: 5, Score: 1})
	g.Add(2, 7, gc.Use{Score: math.NaN()})
	g.Add(1, 20, gc.Use{Last: 3, Score: 2})
	g.Manifest(1, []gc.ID{2})
	g.Manifest(1, []gc.ID{9})
	g.Add(3, 1, gc.Use{})
	p := g.Plan(gc.PlanOptions{Free: 100})
	if len(p.Victims) != 1 || p.Freed != 27 || p.Victims[0].Use != (gc.Use{Last: 5, Score: 2}) || !slices.Equal(p.Victims[0].Content, []gc.ID{1, 2}) {
		t.Errorf("got %+v", p)
	}
}

func TestTouch(t *testing.T) {
	var never gc.Use
	once := never.Touch(100, 0)
	if once.Last != 100 || once.Score <= never.Score {
		t.Errorf("a use makes %+v of %+v", once, never)
	}
	if later := never.Touch(100, 3); later.Score <= once.Score {
		t.Errorf("a later use is worth %v, an earlier one %v", later.Score, once.Score)
	}
	twice := once.Touch(50, 0)
	if twice.Last != 50 || twice.Score <= once.Score {
		t.Errorf("a second use makes %+v of %+v", twice, once)
	}
	often := never
	for range 1000 {
		often = often.Touch(1, 0)
	}
	if often.Score <= twice.Score {
		t.Errorf("a thousand uses are worth %v, two %v", often.Score, twice.Score)
	}
	if late := never.Touch(1, 5); late.Score <= often.Score {
		t.Errorf("one use now is worth %v, a thousand five turns ago %v", late.Score, often.Score)
	}
	if u := never.Touch(math.MaxInt64, 1e9).Touch(1, 0).Touch(1, 1e9); !(u.Score > 1e8 && u.Score < 1e10) {
		t.Errorf("got %+v", u)
	}
	if !never.Faded(0) || once.Faded(0) || once.Faded(1) || !once.Faded(4) || twice.Faded(2) || often.Faded(4) || !often.Faded(10) {
		t.Error("uses fade at other times")
	}
}

func TestSucceed(t *testing.T) {
	var never gc.Use
	hot, cold := never.Touch(7, 50).Touch(8, 50), never.Touch(9, 50)
	old, new := hot.Succeed(never)
	if new.Score != hot.Score || new.Last != 8 || old.Score >= cold.Score || old.Last != 8 {
		t.Errorf("a new version is worth %+v, the one before %+v", new, old)
	}
	if next := new.Touch(10, 50); next.Score <= hot.Score || next.Last != 10 {
		t.Errorf("its first use makes %+v of it", next)
	}
	if _, new := cold.Succeed(hot); new != (gc.Use{Last: 9, Score: hot.Score}) {
		t.Errorf("what is used more becomes %+v", new)
	}
	if old, new := never.Succeed(never); old != never || new != never {
		t.Errorf("nothing becomes %+v, %+v", old, new)
	}
	if old, _ := never.Touch(1, 0).Succeed(never); !(float32(old.Score) > 0) {
		t.Errorf("what was used becomes %+v", old)
	}
}

func TestWhy(t *testing.T) {
	for why, want := range map[gc.Why]string{gc.Unused: "unused", gc.Expired: "expired", gc.Room: "room", 0: "unknown"} {
		if got := why.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
