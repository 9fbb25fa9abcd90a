package index

// What tests of the package see of it.
var (
	CheckTable = func(name string) error {
		_, err := checkTable(name, nil)
		return err
	}
	Damaged = damaged
)

// SetFree makes x take free for what tells how much room there is.
func SetFree(x *Index, free func(dir string) (int64, error)) { x.place.free = free }

// SetMost makes x take most for how many new tables there may be.
func SetMost(x *Index, most int) { x.merge.most = most }

// Settle has x merge what there is to merge, and waits for that.
func Settle(x *Index) error {
	err := x.merge.look()
	x.merge.mu.Lock()
	done := x.merge.done
	x.merge.mu.Unlock()
	if done != nil {
		<-done
	}
	return err
}

// Tables returns how many tables are new, and how many merged.
func Tables(x *Index) (fresh, old int) {
	f, o := x.merge.tables()
	return f.tables, o.tables
}
