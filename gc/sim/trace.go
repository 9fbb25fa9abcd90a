package sim

import (
	"math"
	"math/rand/v2"
	"slices"
	"sort"
)

// Trace is a list of pulls of images.
type Trace struct {
	Name string
	// Sizes has the size of each blob in bytes.
	Sizes []int64
	// Images has the blobs of each image.
	Images [][]int
	// Before has for each image the one whose tag it took over, or -1.
	Before []int
	// Pulls are in the order in which they are made.
	Pulls []Pull
}

// Pull is of one image by one client, who asks only for what it does not have.
type Pull struct {
	Image int
	Blobs []int
}

// Options describe a trace. Sizes of layers and how images share them are the
// same for all: see [generator].
type Options struct {
	Name  string
	Pulls int
	Repos int
	// Clients pull at random. Each has the layers of the last images that it
	// pulled, so many of them, and does not ask for them.
	Clients, Local int
	// Alpha is the exponent of the Zipf distribution of pulls over
	// repositories.
	Alpha float64
	// Release is how likely it is that a pull is the first one of a new version
	// of its repository. The one before is not pulled again.
	Release float64
	// Scan is the part of all pulls that is for images that are pulled once, in
	// bursts of 20 to 60: builds, tests, upgrades.
	Scan float64
	// Drift is how likely it is, with each pull, that a repository changes
	// places with another one in the order of popularity.
	Drift float64
	// Shift moves half of the repositories to other places, at once, after half
	// of all pulls.
	Shift bool
	// Loop pulls one repository after the other instead.
	Loop bool
}

// generator makes images as they are found in registries: one of some base
// layers of 30 to 80 MB that many share, most often one of a few runtimes on
// top of it, and one to five layers of its own, log-normal about 12 MB between
// 1 and 200 MB.
type generator struct {
	*rand.Rand
	Trace
	bases    []int
	runtimes [][]int // of each base
	repos    []repo
	local    [][]int // the last images of each client, the most recent last
}

type repo struct {
	base, runtime int
	own           []int
	image         int // the current version
}

const (
	mega     = 1e6
	bases    = 12
	runtimes = 4
)

// Generate returns the trace that o describes. The same seed gives the same.
func Generate(o Options, seed uint64) Trace {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 1)), Trace: Trace{Name: o.Name}}
	for range bases {
		g.bases = append(g.bases, g.blob(30*mega+g.Float64()*50*mega))
		g.runtimes = append(g.runtimes, nil)
		for range runtimes {
			last := len(g.runtimes) - 1
			g.runtimes[last] = append(g.runtimes[last], g.blob(20*mega+g.Float64()*100*mega))
		}
	}
	for range o.Repos {
		g.repos = append(g.repos, g.repo())
	}
	g.replay(o)
	return g.Trace
}

func (g *generator) replay(o Options) {
	// The place of each repository in the order of popularity.
	order := g.Perm(o.Repos)
	weights := make([]float64, o.Repos) // up to and including each place
	sum := 0.0
	for i := range weights {
		sum += math.Pow(float64(i+1), -o.Alpha)
		weights[i] = sum
	}
	burst := 0
	g.local = make([][]int, max(o.Clients, 1))
	for i := 0; len(g.Pulls) < o.Pulls; i++ {
		if o.Shift && len(g.Pulls) >= o.Pulls/2 {
			o.Shift = false
			for j := 0; j < o.Repos; j += 2 {
				k := g.IntN(o.Repos)
				order[j], order[k] = order[k], order[j]
			}
		}
		if g.Float64() < o.Drift {
			j, k := g.IntN(o.Repos), g.IntN(o.Repos)
			order[j], order[k] = order[k], order[j]
		}
		if g.Float64() < 1.0/500 {
			b := g.IntN(bases)
			g.bases[b] = g.blob(float64(g.Sizes[g.bases[b]]))
		}
		if burst == 0 && g.Float64() < o.Scan/(1-o.Scan)/40 {
			burst = 20 + g.IntN(41)
		}
		if burst > 0 {
			burst--
			once := g.repo()
			g.pull(once.image, o)
			continue
		}
		if o.Loop {
			g.pull(g.repos[i%o.Repos].image, o)
			continue
		}
		r := &g.repos[order[sort.SearchFloat64s(weights, g.Float64()*sum)]]
		if g.Float64() < o.Release {
			// Some layers stay the same.
			r.own = slices.Clone(r.own)
			for j := g.IntN(len(r.own)); j < len(r.own); j++ {
				r.own[j] = g.layer()
			}
			before := r.image
			g.image(r)
			g.Before[r.image] = before
		}
		g.pull(r.image, o)
	}
}

// pull adds a pull by any client, who then has the image, unless it has it.
func (g *generator) pull(image int, o Options) {
	client := &g.local[g.IntN(len(g.local))]
	i := slices.Index(*client, image)
	if i >= 0 {
		*client = append(slices.Delete(*client, i, i+1), image)
		return
	}
	p := Pull{Image: image}
	for _, b := range g.Images[image] {
		if !slices.ContainsFunc(*client, func(has int) bool { return slices.Contains(g.Images[has], b) }) {
			p.Blobs = append(p.Blobs, b)
		}
	}
	g.Pulls = append(g.Pulls, p)
	if o.Local > 0 {
		if len(*client) == o.Local {
			*client = slices.Delete(*client, 0, 1)
		}
		*client = append(*client, image)
	}
}

func (g *generator) repo() repo {
	// Some bases are more common than others.
	r := repo{base: min(g.IntN(bases), g.IntN(bases)), runtime: g.IntN(runtimes+1) - 1}
	for range 1 + g.IntN(5) {
		r.own = append(r.own, g.layer())
	}
	g.image(&r)
	return r
}

// image adds a version of r. Its last blob is its manifest, with its config.
func (g *generator) image(r *repo) {
	blobs := []int{g.bases[r.base]}
	if r.runtime >= 0 {
		blobs = append(blobs, g.runtimes[r.base][r.runtime])
	}
	blobs = append(blobs, r.own...)
	blobs = append(blobs, g.blob(8e3))
	r.image = len(g.Images)
	g.Images = append(g.Images, blobs)
	g.Before = append(g.Before, -1)
}

func (g *generator) layer() int {
	return g.blob(min(max(12*mega*math.Exp(1.2*g.NormFloat64()), mega), 200*mega))
}

func (g *generator) blob(size float64) int {
	g.Sizes = append(g.Sizes, int64(size))
	return len(g.Sizes) - 1
}

// Footprint returns how many bytes all that is pulled takes.
func (t Trace) Footprint() int64 {
	seen := make([]bool, len(t.Sizes))
	sum := int64(0)
	for _, p := range t.Pulls {
		for _, b := range p.Blobs {
			if !seen[b] {
				seen[b] = true
				sum += t.Sizes[b]
			}
		}
	}
	return sum
}

// Requested returns how many bytes clients ask for.
func (t Trace) Requested() int64 {
	sum := int64(0)
	for _, p := range t.Pulls {
		for _, b := range p.Blobs {
			sum += t.Sizes[b]
		}
	}
	return sum
}
