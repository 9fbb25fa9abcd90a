package gc

// chunkBits is the binary logarithm of how many elements a chunk has. Small
// graphs are common too, so that a chunk of nodes is 32 KB.
const chunkBits = 10

// chunks is a list that grows without being copied, so that at no time there
// are two of it.
type chunks[T any] struct {
	list [][]T
	n    int
}

func (c *chunks[T]) len() int { return c.n }

func (c *chunks[T]) at(i uint32) *T {
	return &c.list[i>>chunkBits][i&(1<<chunkBits-1)]
}

func (c *chunks[T]) append(v T) {
	if c.n>>chunkBits == len(c.list) {
		c.list = append(c.list, make([]T, 1<<chunkBits))
	}
	c.n++
	*c.at(uint32(c.n - 1)) = v
}

// truncate forgets all but the first n elements.
func (c *chunks[T]) truncate(n int) {
	c.n = n
	c.list = c.list[:(n+1<<chunkBits-1)>>chunkBits]
}
