package gc_test

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"registry-module/gc"
)

// BenchmarkPlan fills a graph with a million contents, a hundred thousand
// manifests among them, and plans to evict all. It reports how much of the heap
// the graph and the plan take when they are done, beside what is allocated.
func BenchmarkPlan(b *testing.B) {
	const contents, manifests, layers = 1_000_000, 100_000, 12
	random := rand.New(rand.NewPCG(1, 1))
	all := make([]gc.ID, contents)
	for i := range all {
		sum := sha256.Sum256(binary.LittleEndian.AppendUint32(nil, uint32(i)))
		all[i] = gc.ID(binary.BigEndian.Uint64(sum[:]))
	}
	images := slices.Clone(all[:manifests])
	blobs := slices.Clone(all[manifests:])
	parts := make([]gc.ID, 0, layers)
	for name, sorted := range map[string]bool{"sorted": true, "unsorted": false} {
		order := slices.Clone(all)
		if sorted {
			slices.Sort(order)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				before := heap()
				g := new(gc.Graph)
				for i, id := range order {
					g.Add(id, 1<<20, gc.Use{Last: int64(i), Score: random.Float64()})
				}
				for i, id := range images {
					// Nine of its own, three that others have too.
					parts = append(parts[:0], blobs[i*9:i*9+9]...)
					for range layers - 9 {
						parts = append(parts, blobs[random.IntN(1000)])
					}
					g.Manifest(id, parts)
				}
				b.ReportMetric(heap()-before, "graph-MB")
				p := g.Plan(gc.PlanOptions{Free: 1 << 60})
				if len(p.Victims) != manifests || p.Freed != contents<<20 {
					b.Fatalf("%d victims, %d bytes", len(p.Victims), p.Freed)
				}
				b.ReportMetric(heap()-before, "all-MB")
				runtime.KeepAlive(p)
				runtime.KeepAlive(g)
			}
		})
	}
}

// heap returns how much of the heap is in use, in megabytes.
func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / 1e6
}
